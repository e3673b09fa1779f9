"""The printed table holds the scores' numbers and the sentence."""

import numpy as np
import pandas as pd

from cryofuse.learning.skill import verdict
from cryofuse.learning.table import flatten_scores, render_table
from cryofuse.tables import SCORES


def scores() -> pd.DataFrame:
    rows = []
    for model, kind in (("ridge", "model"), ("zero", "baseline"), ("ridge_blind", "control")):
        for name, value in (("r2", 0.5), ("rmse_cm", 2.25), ("rmse_gt", 1.5), ("mae_cm", 1.75)):
            rows.append([model, kind, name, value, value - 0.125, value + 0.125, None])
    rows.append(["ridge", "model", "gain_vs_best", -0.25, -0.5, 0.125, None])
    rows.append(["ridge", "model", "gain_vs_best_twin", np.nan, np.nan, np.nan, "why not"])
    columns = ["model", "kind", "score", "value", "lower", "upper", "reason"]
    table = pd.DataFrame(rows, columns=columns)
    table = table.assign(split="forward", target="change", scope="pooled", n=40, n_blocks=3)
    mascon = table.assign(scope="mascon:1", value=9.0)
    return pd.concat([table, mascon])[list(SCORES.columns)].astype({"n_blocks": "Int64"})


def test_the_flat_table_holds_the_pooled_scores() -> None:
    flat = flatten_scores(scores()).set_index("model")
    assert list(flat.index) == ["ridge", "zero", "ridge_blind"]
    row = flat.loc["ridge"]
    assert (row["r2"], row["r2_lower"], row["r2_upper"]) == (0.5, 0.375, 0.625)
    assert (row["gain_vs_best"], row["n"], row["n_blocks"]) == (-0.25, 40, 3)
    assert np.isnan(row["gain_vs_best_twin"]) and np.isnan(flat.loc["zero", "gain_vs_best"])


def test_the_printed_table_has_the_sentence_on_top_and_blanks_for_nulls() -> None:
    text = render_table(scores(), "Testland")
    lines = text.splitlines()
    assert lines[0] == "# Testland: predictive skill"
    assert lines[2] == verdict(scores())
    row = next(line for line in lines if "| ridge |" in line)
    assert row == (
        "| forward in time | ridge | 0.50 [0.38, 0.62] | 1.50 | 2.25 | 1.75 | "
        "−0.25 [−0.50, 0.12] |  |  |  | 40 | 3 |"
    )
    header = next(line for line in lines if line.startswith("| split"))
    assert header.count("|") == row.count("|")
    assert "## Cumulative mass anomaly" not in text


def test_no_score_is_a_table_too() -> None:
    none = scores().assign(value=np.nan, lower=np.nan, upper=np.nan, reason="no gravimetry")
    assert "cannot be said: no gravimetry" in render_table(none, "Testland")
    assert flatten_scores(none)["r2"].isna().all()
