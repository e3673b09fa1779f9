"""The table of scores as a paper would print it, made of ``skill/scores`` alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from cryofuse.learning.skill import verdict

#: Column of the printed table: the score, decimals, whether its interval is printed.
_PRINTED = {
    "R²": ("r2", 2, True),
    "RMSE (Gt)": ("rmse_gt", 2, False),
    "RMSE (cm)": ("rmse_cm", 2, False),
    "MAE (cm)": ("mae_cm", 2, False),
    "gain over best baseline": ("gain_vs_best", 2, True),
    "gain over best blind model": ("gain_vs_best_twin", 2, True),
    "coverage": ("coverage", 2, False),
    "p (permuted labels)": ("p_permuted", 3, False),
}
_TARGETS = {"change": "Monthly mass change", "cumulative": "Cumulative mass anomaly"}
_SPLITS = {
    "random": "random (leaks)",
    "leave_mascon_out": "mascons left out",
    "forward": "forward in time",
    "both": "both",
}
#: Pooled scores that the flat table holds, in its order.
_FLAT = [score for score, _, _ in _PRINTED.values()]


def flatten_scores(scores: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each target, split and model, with the pooled scores as columns.

    Parameters
    ----------
    scores
        Table SCORES.

    Returns
    -------
    DataFrame
        Columns target, split, model, kind, n, n_blocks, and of every score its value and the ends
        of its 95 % interval, ``<score>_lower`` and ``<score>_upper``; null where there is none.
    """
    pooled = scores[(scores["scope"] == "pooled") & scores["score"].isin(_FLAT)]
    rows: list[dict[str, Any]] = []
    keys = ["target", "split", "model", "kind"]
    for key, group in pooled.groupby(keys, sort=False):
        row: dict[str, Any] = dict(zip(keys, key, strict=True))
        first = group[group["score"] == "r2"]
        row |= {"n": int(first["n"].iloc[0]), "n_blocks": first["n_blocks"].iloc[0]}
        for name in _FLAT:
            found = group[group["score"] == name]
            for column, ending in (("value", ""), ("lower", "_lower"), ("upper", "_upper")):
                row[name + ending] = float(found[column].iloc[0]) if len(found) else np.nan
        rows.append(row)
    flat = pd.DataFrame(rows)
    if not flat.empty:
        flat["n_blocks"] = flat["n_blocks"].astype("Int64")
    return flat


def render_table(scores: pd.DataFrame, title: str) -> str:
    """Return the sentence and the table of pooled scores as Markdown.

    Parameters
    ----------
    scores
        Table SCORES.
    title
        Name of the region.
    """
    flat = flatten_scores(scores)
    lines = [f"# {title}: predictive skill", "", verdict(scores), ""]
    for target, heading in _TARGETS.items():
        part = flat[flat["target"] == target] if len(flat) else flat
        if part.empty:
            continue
        lines += [f"## {heading}", ""]
        lines += ["| split | model | " + " | ".join(_PRINTED) + " | n | blocks |"]
        lines += ["|---" * (len(_PRINTED) + 4) + "|"]
        for row in part.to_dict("records"):
            cells = [_SPLITS.get(row["split"], row["split"]), row["model"].replace("_", " ")]
            cells += [_cell(row, *printed) for printed in _PRINTED.values()]
            cells += [str(row["n"]), "" if pd.isna(row["n_blocks"]) else str(row["n_blocks"])]
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    lines += [
        "R² and errors are of held-out samples, pooled; in brackets 95 % intervals of a bootstrap "
        "over blocks of months with all mascons together (of permuted labels: the range over "
        "permutations, whose number stands under blocks). A gain is 1 − the ratio of squared "
        "errors. A blind model sees every feature but elevation change. Gt and cm are per month "
        "for the monthly change.",
        "",
    ]
    return "\n".join(lines)


def _cell(row: Mapping[Any, Any], score: str, decimals: int, interval: bool) -> str:
    value, lower, upper = (row[score + ending] for ending in ("", "_lower", "_upper"))
    if not np.isfinite(value):
        return ""
    text = f"{value:.{decimals}f}"
    if interval and np.isfinite(lower):
        text += f" [{lower:.{decimals}f}, {upper:.{decimals}f}]"
    return text.replace("-", "−")
