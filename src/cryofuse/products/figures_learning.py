"""Figures of learning: skill, predictions, importance, calibration, choice of regimes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cryofuse.learning.controls import BLIND, PERMUTED
from cryofuse.products import style
from cryofuse.products.figures_maps import best_model
from cryofuse.products.style import MONTH_NAMES, SPLIT_NAMES, TARGET_NAMES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KIND_COLOURS = {
    "model": style.CATEGORIES[0],
    "baseline": style.CATEGORIES[4],
    "control": style.CATEGORIES[3],
}
#: Feature groups in a reader's words.
GROUP_NAMES = {
    "elevation": "elevation since the start",
    "interannual": "departure from trend and cycle",
    "rate": "rate of elevation change",
    "annual_cycle": "annual cycle: size and phase",
    "annual_cycle_change": "change the annual cycle brings",
    "thinning": "share of the ice that thins",
    "spread": "unevenness of the change",
    "sampling": "share of the ice seen",
    "season": "calendar month",
    "ice": "area and share of ice",
    "position": "latitude and longitude",
    "topography": "height and slope",
    "marine_margin": "share of marine margin",
}
FAMILY_NAMES = {
    "altimetry": "all elevation change",
    "season": "all of the season",
    "place": "all of the place",
    "sampling": "all of the sampling",
}
#: Points up to which a scatter stays vector graphics: about 1 MB of PDF.
MOST_VECTOR_POINTS = 20_000
#: No axis of R² reaches lower.
_R2_FLOOR = -1.0
_MODEL_COLOURS = style.CATEGORIES
_MARKERS = "osD^vP"


def _splits(table: pd.DataFrame) -> list[str]:
    return [s for s in SPLIT_NAMES if (table["split"] == s).any()]


def _targets(table: pd.DataFrame) -> list[str]:
    return [t for t in TARGET_NAMES if (table["target"] == t).any()]


@style.styled
def draw_skill_bars(scores: pd.DataFrame, title: str, months: str, unit: str = "mascon") -> Figure:
    """Draw pooled R² of every model, baseline and control under every split.

    Every target has an axis of its own, as far below zero as it reaches above; what lies lower is
    an arrow with its value.

    Parameters
    ----------
    scores
        Table ``skill/scores``.
    title
        Name of the region.
    months
        First and last month that was predicted, in words.
    unit
        What was left out: mascon or basin.
    """
    from matplotlib.lines import Line2D

    pooled = scores[(scores["scope"] == "pooled") & (scores["score"] == "r2")]
    splits, targets = _splits(pooled) or ["forward"], _targets(pooled) or ["change"]
    # A twin stands, hollow, on the line of its model.
    names = [n for n in dict.fromkeys(_ordered(pooled)) if not n.endswith(BLIND)]
    figure = style.new_figure(1.5 + len(targets) * max(1.2, 0.19 * len(names) + 0.4))
    panels = figure.subplots(len(targets), len(splits), sharex="row", sharey=True, squeeze=False)
    for row, target in enumerate(targets):
        known = pooled[(pooled["target"] == target) & pooled["value"].notna()]
        reach = -_R2_FLOOR if known.empty else _r2_reach(known)
        for column, split in enumerate(splits):
            axes = panels[row, column]
            part = pooled[(pooled["split"] == split) & (pooled["target"] == target)]
            _draw_scores(axes, part, names, reach)
            letter = "abcdefgh"[row * len(splits) + column]
            axes.set_title(f"{letter}  {style.split_name(split, unit)}", fontsize=6.6)
            if column == 0:
                axes.set_ylabel(TARGET_NAMES[target])
            axes.set_xlabel("R² (1)")
    handles = [
        Line2D([], [], marker="o", ls="none", color=colour, label=kind)
        for kind, colour in KIND_COLOURS.items()
    ]
    twin = Line2D([], [], marker="o", ls="none", color=KIND_COLOURS["control"], mfc="white")
    twin.set_label("blind twin")
    handles.append(twin)
    figure.legend(handles=handles, loc="outside upper right", ncols=4)
    blocks = pooled.loc[pooled["model"] != PERMUTED, "n_blocks"].dropna()
    low, high = (int(blocks.min()), int(blocks.max())) if len(blocks) else (0, 0)
    several = f"{low}" if low == high else f"{low} to {high}"
    independent = f" ({several} blocks)" if len(blocks) else ""
    style.head(
        figure,
        f"{title}: predictive skill by split",
        f"{months}. Pooled held-out R² of GRACE mass (cm water equivalent) with 95 % "
        f"block-bootstrap intervals{independent}; the axes of the rows differ. An arrow marks a "
        "value below the axis. Random folds leak: read the others. Varying density: linear in "
        "elevation change, by place and season. Blind twin: the same model without elevation "
        "change. Noise control: place, season, time and noise alone. Labels of other years: range "
        "over permutations.",
    )
    return figure


def _ordered(pooled: pd.DataFrame) -> list[str]:
    rank = {"model": 0, "baseline": 1, "control": 2}
    table = pooled[["model", "kind"]].drop_duplicates()
    table = table.assign(rank=table["kind"].map(rank).fillna(3))
    return table.sort_values("rank", kind="stable")["model"].tolist()


def _r2_reach(part: pd.DataFrame) -> float:
    """Return how far an axis of R² reaches to both sides of zero.

    It holds the intervals of all scores but those more than twice as far below zero as the best
    lies above it.
    """
    top = max(float(part["value"].max()), 0.05)
    near = part.loc[part["value"] >= -2 * top, ["value", "lower", "upper"]].to_numpy(dtype=float)
    return min(style.nice_ceiling(max(float(np.nanmax(np.abs(near))), top)), -_R2_FLOOR)


def _draw_scores(axes: Axes, part: pd.DataFrame, names: list[str], reach: float) -> None:
    floor = -reach
    place = {name: len(names) - 1.0 - i for i, name in enumerate(names)}
    ticks = list(place.values())
    axes.axvline(0, color=style.FAINT, lw=0.5)
    axes.set_xlim(floor - 0.08 * reach, 1.05 * reach)
    axes.set_yticks(ticks, [style.model_name(n) for n in place], fontsize=6.5)
    place |= {name + BLIND: y - 0.3 for name, y in place.items()}
    axes.set_ylim(-0.6, len(names) - 0.4)
    known = part.dropna(subset=["value"])
    if known.empty:
        reason = style.first_reason(part["reason"], default="no score")
        style.state_reason(axes, reason)
        return
    rows: list[Any] = list(known.itertuples())
    for row in rows:
        y, colour = place[row.model], KIND_COLOURS.get(row.kind, style.FAINT)
        twin = row.model.endswith(BLIND)
        face = "white" if twin else colour
        if pd.notna(row.lower) and pd.notna(row.upper):
            axes.plot(
                np.clip([row.lower, row.upper], floor, reach), [y, y], color=colour,
                lw=1.0 if twin else 1.6, alpha=0.55, solid_capstyle="butt",
                gid=f"interval {row.model}",
            )  # fmt: skip
        if row.value < floor:
            axes.plot(floor, y, "<", ms=4, color=colour, mfc=face, gid=f"below {row.model}")
            axes.text(
                floor + 0.08 * reach, y, f"{row.value:.1f}".replace("-", "−"), fontsize=5.5,
                va="center",
            )  # fmt: skip
        else:
            axes.plot(
                row.value, y, "o", ms=2.8 if twin else 3.6, color=colour, mfc=face, mew=0.8,
                gid=f"score {row.model}",
            )  # fmt: skip


@style.styled
def draw_learning_curve(
    curve: pd.DataFrame, title: str, months: str, unit: str = "mascon"
) -> Figure:
    """Draw held-out R² against training months and training mascons, a row for each target.

    Parameters
    ----------
    curve
        Table ``skill/learning_curve``.
    title
        Name of the region.
    months
        First and last month that was predicted, in words.
    unit
        What was left out: mascon or basin.
    """
    from matplotlib.lines import Line2D

    units = {"forward": "training months", "leave_mascon_out": f"training {unit}s"}
    targets = _targets(curve) or ["change"]
    models = [m for m in dict.fromkeys(curve["model"]) if not m.endswith(BLIND)]
    figure = style.new_figure(1.2 + 1.9 * len(targets))
    panels = figure.subplots(len(targets), len(units), sharey="row", squeeze=False)
    for row, target in enumerate(targets):
        # The smallest shares may fall without end: the axis is for the others.
        steady = curve.loc[(curve["target"] == target) & (curve["share"] >= 0.5), "r2"].min()
        floor = max(_R2_FLOOR, min(-0.05, float(np.nan_to_num(steady)) - 0.05))
        for column, (split, counted) in enumerate(units.items()):
            axes = panels[row, column]
            part = curve[(curve["target"] == target) & (curve["split"] == split)]
            if row == 0:
                axes.set_title(f"{'ab'[column]}  {style.split_name(split, unit)}")
            if row == len(targets) - 1:
                axes.set_xlabel(f"{counted}, mean over folds")
            if column == 0:
                axes.set_ylabel(f"R² (1), {TARGET_NAMES[target]}")
            if part["r2"].notna().sum() == 0:
                reason = style.first_reason(part["reason"], default="split not asked for")
                style.state_reason(axes, reason)
                continue
            axes.axhline(0, color=style.FAINT, lw=0.5)
            axes.set_xlim(0, 1.05 * float(part["n_units"].max()))
            for number, model in enumerate(models):
                for name, dashes in ((model, "-"), (model + BLIND, "--")):
                    line = part[part["model"] == name].sort_values("n_units")
                    value = line["r2"].to_numpy(dtype=float)
                    colour = _MODEL_COLOURS[number % 8]
                    axes.plot(
                        line["n_units"], value, dashes, marker="o", ms=3, lw=1, color=colour,
                        gid=f"curve {name}",
                    )  # fmt: skip
                    axes.vlines(
                        line["n_units"], line["lower"], line["upper"], color=colour, lw=0.8,
                        alpha=0.6, gid=f"range {name}",
                    )  # fmt: skip
                    below = line[value < floor]
                    axes.plot(
                        below["n_units"], np.full(len(below), floor), "v", ms=5, color=colour,
                        gid=f"below {name}",
                    )  # fmt: skip
        known = curve[curve["target"] == target]
        if known["r2"].notna().any():
            top = known[["r2", "upper"]].max().max()
            room = 0.05 * (top - floor)
            panels[row, 0].set_ylim(floor - room, top + room)
    handles = [
        Line2D([], [], marker="o", ms=3, color=_MODEL_COLOURS[k % 8], label=style.model_name(m))
        for k, m in enumerate(models)
    ]
    handles.append(
        Line2D([], [], ls="--", color=style.INK, label="the same without elevation change")
    )
    style.legend_below(figure, handles, len(handles))
    draws = curve["n_draws"].max() if len(curve) else 0
    style.head(
        figure,
        f"{title}: learning curves",
        f"{months}. Pooled held-out R² of models trained on nested shares of the months (forward "
        f"in time) or {unit}s (left out); points are means, bars the range over {draws:g} draws. "
        "A triangle marks a value below the axis.",
    )
    return figure


@style.styled
def draw_predicted_observed(
    predictions: pd.DataFrame, scores: pd.DataFrame, title: str, unit: str = "mascon"
) -> Figure:
    """Draw predicted against observed monthly change, a panel for each split.

    Parameters
    ----------
    predictions
        Table ``skill/predictions``.
    scores
        Table ``skill/scores``, which names the best model of each split.
    title
        Name of the region.
    unit
        What was left out: mascon or basin.
    """
    target = "change"
    splits = list(SPLIT_NAMES)
    figure = style.new_figure(7.0)
    panels = np.ravel(figure.subplots(2, 2))
    shown = predictions[predictions["target"] == target]
    used = []
    reach = 1.0
    for split in splits:
        part = shown[
            (shown["split"] == split) & (shown["model"] == best_model(scores, split, target))
        ]
        used.append(part)
        if len(part):
            values = np.abs(part[["observed_cm", "predicted_cm"]].to_numpy(dtype=float))
            reach = max(reach, float(np.quantile(values, 0.998)))
    for letter, axes, split, part in zip("abcd", panels, splits, used, strict=True):
        axes.set_title(f"{letter}  {style.split_name(split, unit)}")
        axes.set_xlim(-reach, reach)
        axes.set_ylim(-reach, reach)
        axes.set_aspect("equal")
        axes.set_xlabel("GRACE (cm water equivalent per month)")
        axes.set_ylabel("predicted (cm water equivalent per month)")
        axes.axhline(0, color="#cccccc", lw=0.4)
        axes.axvline(0, color="#cccccc", lw=0.4)
        axes.plot([-reach, reach], [-reach, reach], color=style.FAINT, lw=0.7, ls="--")
        if part.empty:
            rows = scores[(scores["split"] == split) & (scores["target"] == target)]
            style.state_reason(axes, style.first_reason(rows["reason"], default="no prediction"))
            continue
        observed = part["observed_cm"].to_numpy(dtype=float)
        predicted = part["predicted_cm"].to_numpy(dtype=float)
        axes.plot(
            observed, predicted, ".", ms=2.2, alpha=0.35, color=style.CATEGORIES[0], mew=0,
            rasterized=len(part) > MOST_VECTOR_POINTS, gid="pairs",
        )  # fmt: skip
        outside = int(((np.abs(observed) > reach) | (np.abs(predicted) > reach)).sum())
        error = predicted - observed
        lines = [
            style.model_name(str(part["model"].iloc[0])),
            f"R² {1 - error @ error / np.sum((observed - observed.mean()) ** 2):.2f}",
            f"RMSE {np.sqrt(np.mean(error**2)):.2f} cm",
            f"n {len(part):,} ({part['mascon_id'].nunique()} {unit}s)",
        ]
        if outside:
            lines.append(f"{outside} outside the frame")
        axes.text(
            0.03, 0.97, "\n".join(lines).replace("-", "−"), transform=axes.transAxes, va="top",
            fontsize=6.5, bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},
        )  # fmt: skip
    style.head(
        figure,
        f"{title}: predicted and observed mass change",
        f"{style.months_text(shown['month'])}. Held-out predictions of the model with the lowest "
        "pooled RMSE of each split; dashed: 1:1.",
    )
    return figure


@style.styled
def draw_importance(importance: pd.DataFrame, title: str, months: str) -> Figure:
    """Draw feature groups by permutation and by SHAP values, a column for each target.

    Parameters
    ----------
    importance
        Table ``explained/importance``.
    title
        Name of the region.
    months
        First and last month that was predicted, in words.
    """
    methods = {
        "permutation": "rise of held-out RMSE (cm)",
        "shap": "mean |SHAP value| (cm)",
    }
    targets = _targets(importance) or ["change"]
    count = len(importance[["kind", "group"]].drop_duplicates())
    figure = style.new_figure(1.2 + 2 * max(1.4, 0.15 * count + 0.5))
    panels = figure.subplots(len(methods), len(targets), squeeze=False)
    for row, (method, label) in enumerate(methods.items()):
        for column, target in enumerate(targets):
            axes = panels[row, column]
            part = importance[(importance["method"] == method) & (importance["target"] == target)]
            letter = "abcd"[row * len(targets) + column]
            name = {"shap": "SHAP values"}.get(method, method)
            axes.set_title(f"{letter}  {name}, {TARGET_NAMES[target]}", fontsize=7.2)
            axes.set_xlabel(label)
            known = part.dropna(subset=["importance"]).sort_values(
                ["kind", "importance", "group"], ascending=[False, True, False]
            )
            if known.empty:
                axes.set_yticks([])
                style.state_reason(axes, style.first_reason(part["reason"], default="no value"))
                continue
            value = known["importance"].to_numpy(dtype=float)
            bounds = known[["lower", "upper"]].to_numpy(dtype=float)
            reach = np.nan_to_num(np.clip(np.column_stack(
                [value - bounds[:, 0], bounds[:, 1] - value]
            ), 0, None)).T  # fmt: skip
            bars = axes.barh(
                np.arange(len(known)), value, 0.65, color=style.CATEGORIES[row * 2], xerr=reach,
                error_kw={"lw": 0.7, "ecolor": style.INK, "capsize": 1.5},
            )  # fmt: skip
            for bar, kind in zip(bars, known["kind"], strict=True):
                bar.set_gid(f"{kind} {method} {target}")
                bar.set_alpha(1.0 if kind == "group" else 0.5)
            groups = int((known["kind"] == "group").sum())
            axes.axhline(groups - 0.5, color=style.FAINT, lw=0.5, ls="--")
            axes.axvline(0, color=style.FAINT, lw=0.5)
            axes.set_yticks(
                np.arange(len(known)),
                [
                    FAMILY_NAMES.get(g, f"all {g}") if kind == "family" else _group_name(g)
                    for kind, g in zip(known["kind"], known["group"], strict=True)
                ],
                fontsize=6,
            )
            axes.set_ylim(-0.6, len(known) - 0.4)
            axes.locator_params(axis="x", nbins=6)
    style.head(
        figure,
        f"{title}: importance of feature groups",
        f"{months}. XGBoost on held-out data; cm of water equivalent. Pale, above: whole families "
        "moved together (place: latitude, longitude, height, slope, ice); below: groups, each "
        "a feature with all its lags. Lines: 2.5 to 97.5 percentile over folds and seeds, a spread "
        "and no confidence interval. Below 0: permuting helps, that is, it carries nothing.",
    )
    return figure


def _group_name(group: str) -> str:
    """Return a feature group in words; ``1m`` at its end is a month, no metre."""
    if group in GROUP_NAMES:
        return GROUP_NAMES[group]
    text = re.sub(r"_(\d+)m$", r", \1 months", group).replace("_", " ")
    return text.replace(", 1 months", ", 1 month")


@style.styled
def draw_calibration(
    predictions: pd.DataFrame, title: str, nominal: float = 0.9, unit: str = "mascon"
) -> Figure:
    """Draw measured coverage of the conformal intervals by model, split and calendar month.

    Parameters
    ----------
    predictions
        Table ``skill/predictions``.
    title
        Name of the region.
    nominal
        Nominal coverage.
    unit
        What was left out: mascon or basin.
    """
    known = predictions[~predictions["model"].astype(str).str.endswith(BLIND)]
    known = known.dropna(subset=["lower_cm", "upper_cm"])
    targets = _targets(known) or ["change"]
    figure = style.new_figure(1.7 + 2.5 * len(targets))
    panels = figure.subplots(len(targets), 2, sharey="row", squeeze=False)
    said = []
    for row, target in enumerate(targets):
        part = known[known["target"] == target]
        for column, by in enumerate(("by split and model", "by split and month")):
            axes = panels[row, column]
            axes.set_title(
                f"{'abcd'[2 * row + column]}  {TARGET_NAMES[target]}, {by}", fontsize=7.5
            )
            axes.axhline(100 * nominal, color=style.INK, lw=0.7, ls="--")
            if part.empty:
                axes.set_xticks([])
                axes.set_yticks([])
                style.state_reason(axes, "no prediction with an interval")
        panels[row, 0].set_ylabel("inside the interval (%)")
        if len(part):
            said.append(_draw_coverage(panels[row], part, nominal, unit, "abcd"[2 * row :]))
    if said:
        for axes, columns in zip(panels[-1], (2, 2), strict=True):
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=columns)
    style.head(
        figure,
        f"{title}: calibration of the prediction intervals",
        f"{style.months_text(known['month'])}. Share of observations inside conformal intervals "
        f"of nominally {100 * nominal:g} % (dashed), calibrated inside the training folds; above "
        f"the line they are wider than they need be. {' '.join(said)}",
    )
    return figure


def _draw_coverage(
    panels: Sequence[Axes], known: pd.DataFrame, nominal: float, unit: str, letters: str
) -> str:
    """Draw coverage by model and by calendar month in two panels; return their ends in words."""
    from matplotlib.ticker import MultipleLocator

    left, right = panels
    target = str(known["target"].iloc[0])
    by_model = measured_coverage(known)
    calendar = known.assign(calendar_month=known["month"].dt.month)
    by_month = measured_coverage(calendar, ["split", "calendar_month"])
    lowest = 100 * min(by_model["coverage"].min(), by_month["coverage"].min(), nominal)
    left.set_ylim(5 * np.floor(lowest / 5 - 0.5), 101)
    splits, models = _splits(known), list(dict.fromkeys(known["model"]))
    for number, model in enumerate(models):
        part = by_model[by_model["model"] == model].set_index("split")["coverage"].reindex(splits)
        shift = 0.12 * (number - (len(models) - 1) / 2)
        left.plot(
            np.arange(len(splits)) + shift, 100 * part.to_numpy(dtype=float), ls="none", ms=4.5,
            marker=_MARKERS[number % len(_MARKERS)], color=_MODEL_COLOURS[number % 8],
            label=style.model_name(model), gid=f"coverage {target} {model}",
        )  # fmt: skip
    names = [style.split_name(s, unit) for s in splits]
    left.set_xticks(range(len(splits)), [style.fold(n, 12) for n in names], fontsize=6.5)
    left.set_xlim(-0.5, len(splits) - 0.5)
    for number, (split, name) in enumerate(zip(splits, names, strict=True)):
        part = by_month[by_month["split"] == split].set_index("calendar_month")["coverage"]
        right.plot(
            range(1, 13), 100 * part.reindex(range(1, 13)).to_numpy(dtype=float),
            marker=_MARKERS[number % len(_MARKERS)], ms=3.5, lw=0.9,
            color=style.CATEGORIES[4 + number], label=name, gid=f"month {target} {split}",
        )  # fmt: skip
    right.set_xticks(range(1, 13), list("JFMAMJJASOND"))
    left.yaxis.set_major_locator(MultipleLocator(5))
    furthest = by_model.iloc[int((by_model["coverage"] - nominal).abs().to_numpy().argmax())]
    return (
        f"Furthest from nominal in {letters[0]}: {style.model_name(furthest['model'])}, "
        f"{style.split_name(furthest['split'], unit)}, {100 * furthest['coverage']:.0f} %. "
        + _months_that_differ(by_month, unit, letters[1])
    )


def _months_that_differ(by_month: pd.DataFrame, unit: str, letter: str) -> str:
    """Return the calendar months of lowest and highest coverage in every split that is no leak."""
    parts = []
    for split, rows in by_month[by_month["split"] != "random"].groupby("split", sort=False):
        ends = rows.sort_values(["coverage", "calendar_month"])
        low, high = (
            f"{100 * share:.0f} % in {MONTH_NAMES[month - 1]}"
            for share, month in ends[["coverage", "calendar_month"]]
            .iloc[[0, -1]]
            .itertuples(index=False)
        )
        parts.append(f"{style.split_name(str(split), unit)} {low}, {high}")
    return f"Lowest and highest of {letter}: {'; '.join(parts)}." if parts else ""


def measured_coverage(
    predictions: pd.DataFrame, by: Sequence[str] = ("model", "split")
) -> pd.DataFrame:
    """Return the share of observations inside their interval, by model and split or as asked.

    Returns
    -------
    pandas.DataFrame
        Columns ``by``, coverage (0 to 1), n.
    """
    inside = (predictions["observed_cm"] >= predictions["lower_cm"]) & (
        predictions["observed_cm"] <= predictions["upper_cm"]
    )
    return (
        predictions.assign(inside=inside)
        .groupby(list(by), sort=False, as_index=False)
        .agg(coverage=("inside", "mean"), n=("inside", "size"))
    )


@style.styled
def draw_regime_selection(
    stability: pd.DataFrame, title: str, months: str, unit: str = "mascon"
) -> Figure:
    """Draw silhouette, gap statistic and bootstrap stability for every number of regimes.

    Parameters
    ----------
    stability
        Table ``regimes/stability``.
    title
        Name of the region.
    months
        First and last month of altimetry, in words.
    unit
        What the coarse level is: mascon or basin.
    """
    levels = list(dict.fromkeys(stability["level"]))
    figure = style.new_figure(0.9 + 2.0 * len(levels))
    panels = figure.subplots(len(levels), 3, squeeze=False)
    parts = (
        ("silhouette", "mean silhouette (1)", None),
        ("gap", "gap statistic (1)", "gap_sigma"),
        ("adjusted_rand", "Rand index (1)", None),
    )
    places = [(level, *part) for level in levels for part in parts]
    for letter, axes, place in zip("abcdef", panels.flat, places, strict=False):
        level, column, label, sigma = place
        table = stability[stability["level"] == level].sort_values("k")
        axes.set_title(f"{letter}  {level.replace('mascon', unit)}: {label}", fontsize=7.2)
        if level == levels[-1]:
            axes.set_xlabel("number of regimes k")
        value = table[column].to_numpy(dtype=float)
        if not np.isfinite(value).any():
            axes.set_yticks([])
            style.state_reason(axes, style.first_reason(table["reason"], default="no value"))
            continue
        error = None if sigma is None else table[sigma].to_numpy(dtype=float)
        axes.errorbar(
            table["k"], value, yerr=error, marker="o", ms=3.5, color=style.CATEGORIES[0], capsize=2,
            gid=column,
        )  # fmt: skip
        axes.set_xticks(table["k"])
        for k, label in zip(table["k"], axes.get_xticklabels(), strict=True):
            if k in set(table.loc[table["chosen"], "k"]):
                axes.axvline(k, color=style.CATEGORIES[1], lw=0.9, ls="--", zorder=0, gid="chosen")
                label.set(color=style.CATEGORIES[1], fontweight="bold")
    reasons = stability.dropna(subset=["why"])
    style.head(
        figure,
        f"{title}: choice of the number of regimes",
        f"{months}. K-Means on standardised metrics; higher is better in every panel. "
        "Dashed: the k in use. Bars: 1σ. Rand index: agreement with the regimes of bootstrap "
        "draws, adjusted for chance. "
        + " ".join(
            f"{level.capitalize()}: {why}".replace("Mascon", unit.capitalize()).replace(
                "mascon", unit
            )
            for level, why in zip(reasons["level"], reasons["why"], strict=True)
        ),
    )
    return figure
