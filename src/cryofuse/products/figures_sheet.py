"""Figure of the whole sheet's coupling: mass against volume, by treatment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cryofuse.products import style
from cryofuse.products.sheet import OWN_MASS, OWN_VOLUME, list_pairs, treat_pairs
from cryofuse.products.style import TREATMENT_NAMES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from cryofuse.products.reference import Reference

#: Pairs of series that fit below each other.
MOST_PAIRS = 3
_QUARTERS = (
    "months, or quarters in blue (January), green (April), red (July) and orange (October). A "
    "volume at an instant is paired with the mean of the monthly masses before and after it."
)
_MONTH_COLOURS = {1: "#0072B2", 4: "#009E73", 7: "#D55E00", 10: "#E69F00"}


@style.styled
def draw_sheet_coupling(
    totals: pd.DataFrame,
    references: Sequence[Reference],
    coupling: pd.DataFrame,
    title: str,
) -> Figure:
    """Draw mass against volume of the whole sheet, one row a pair, one column a treatment.

    Parameters
    ----------
    totals
        Table ``applications/totals``.
    references
        Published series, as read.
    coupling
        Table ``applications/sheet_coupling``.
    title
        Name of the region.
    """
    known = coupling[coupling["r"].notna()]
    shown = [
        (volume, mass, pairs)
        for volume, mass, pairs in list_pairs(totals, references)
        if ((known["volume"] == volume) & (known["mass"] == mass)).any()
    ][:MOST_PAIRS]
    figure = style.new_figure(2.3 * max(len(shown), 1) + 1.3)
    if not shown:
        axes = figure.add_subplot()
        axes.axis("off")
        style.state_reason(axes, style.first_reason(coupling["reason"]))
    letters = iter("abcdefghi")
    parts: Any = figure.subfigures(len(shown), 1, squeeze=False)[:, 0] if shown else []
    for part, (volume, mass, pairs) in zip(parts, shown, strict=True):
        rows = known[(known["volume"] == volume) & (known["mass"] == mass)]
        part.suptitle(f"{_name(volume)} × {_name(mass)}", fontsize=8, x=0.01, ha="left")
        panels = part.subplots(1, len(TREATMENT_NAMES))
        for axes, (treatment, name) in zip(panels, TREATMENT_NAMES.items(), strict=True):
            axes.set_title(f"{next(letters)}  {name}", fontsize=7)
            axes.set_xlabel("volume (km³)")
            row = rows[rows["treatment"] == treatment]
            if row.empty:
                style.state_reason(axes, "no value")
                continue
            _draw_pairs(axes, treat_pairs(pairs, treatment), row.iloc[0])
        panels[0].set_ylabel("mass (Gt)")
    style.head(
        figure,
        f"{title}: coupling of the sheet's volume with its mass",
        f"{style.months_text(*(pairs['month'] for _, _, pairs in shown))}. Points: "
        f"{_QUARTERS if _quarterly(known, shown) else 'months.'} Bars: 1σ. "
        "Line: errors in both and a scatter; shaded: 95 % interval of its "
        "slope, the effective density, for the effective number of pairs. r: 95 % interval, nₑ "
        "effective n, p against surrogates with the same autocorrelation and cycles. Volume is "
        "not corrected for firn, so that a density below ice's is expected. "
        + ("" if len(shown) == len(known.groupby(["volume", "mass"])) else "More in the table."),
    )
    return figure


def _quarterly(known: pd.DataFrame, shown: list[Any]) -> bool:
    """Return whether any of the pairs shown is one of quarters."""
    pairs = {(volume, mass) for volume, mass, _ in shown}
    quarters = known[known["step_months"] == 3]
    return any(pair in pairs for pair in zip(quarters["volume"], quarters["mass"], strict=True))


def _name(series: str) -> str:
    return {OWN_VOLUME: "altimetry of this run", OWN_MASS: "gravity of this run"}.get(
        series, series
    )


def _draw_pairs(axes: Axes, pairs: pd.DataFrame, row: pd.Series) -> None:
    """Draw pairs with their σ, the line of the table with its interval, and the numbers."""
    both = pairs.dropna(subset=["volume_km3", "mass_gt"])
    x, y = (both[name].to_numpy(dtype=float) for name in ("volume_km3", "mass_gt"))
    colours = [
        _MONTH_COLOURS.get(m, style.FAINT) if row["step_months"] == 3 else style.FAINT
        for m in both["month"].dt.month
    ]
    axes.errorbar(
        x, y, xerr=both["volume_sigma_km3"], yerr=both["mass_sigma_gt"], ls="none",
        ecolor="#bbbbbb", elinewidth=0.5, zorder=1,
    )  # fmt: skip
    axes.scatter(x, y, c=colours, s=9, lw=0, zorder=3, gid="pairs")
    slope, lower, upper = (row[f"density{end}_kg_m3"] / 1e3 for end in ("", "_lower", "_upper"))
    if np.isfinite(slope):
        reach = 1.08 * np.array([x.min(), x.max()])
        axes.plot(reach, slope * reach, color=style.INK, lw=1.0, zorder=2, gid="line")
        axes.fill_between(
            reach, lower * reach, upper * reach, color=style.INK, alpha=0.1, lw=0, zorder=0
        )
    room = 0.25 * np.ptp(y)
    axes.set_ylim(y.min() - room, y.max() + 2.4 * room)
    density = "density: none"
    if np.isfinite(slope):
        density = f"{1e3 * slope:.0f} ({1e3 * lower:.0f} to {1e3 * upper:.0f}) kg/m³"
    text = (
        f"r {row['r']:.2f} ({row['r_lower']:.2f} to {row['r_upper']:.2f})\n"
        f"n {row['n']}, nₑ {row['n_effective']:.1f}, p {row['p']:.3f}\n{density}"
    )
    axes.text(
        0.03, 0.97, text.replace("-", "−"), transform=axes.transAxes, va="top", fontsize=6,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}, gid="numbers",
    )  # fmt: skip
    axes.axhline(0, color=style.FAINT, lw=0.3, zorder=0)
    axes.axvline(0, color=style.FAINT, lw=0.3, zorder=0)
