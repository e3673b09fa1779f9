"""The one style of all figures: fonts, colours, map frames, notes, files.

Figures are made without pyplot, so that nothing is global. Maps are plain axes in kilometres
of the region's projected CRS. Colour maps are perceptual and safe for colour-blind readers:
F. Crameri 2018, doi:10.5281/zenodo.1243862; categorical colours of Okabe and Ito 2008.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import matplotlib
import numpy as np
import pandas as pd
import shapely
from cmcrameri import cm
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PatchCollection
from matplotlib.colors import Colormap, LogNorm, Normalize, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Patch, PathPatch
from matplotlib.path import Path as Outline
from shapely.geometry.base import BaseGeometry

from cryofuse.geo import load_outline, project, read_vector, reproject, scale_factor, unproject
from cryofuse.tables import written

if TYPE_CHECKING:
    import geopandas
    from matplotlib.axes import Axes

    from cryofuse.config import RegionSettings

#: Width of a page of text (inches); 183 mm, two columns of a journal.
PAGE_WIDTH_IN = 7.2
DPI = 150
OCEAN, LAND, ICE, EDGE, INK, FAINT = (
    "#eef3f6",
    "#dcd8d0",
    "#ffffff",
    "#4d4d4d",
    "#222222",
    "#7a7a7a",
)
NULL_FACE, NULL_EDGE, NULL_HATCH = "#dddddd", "#888888", "/////"
#: Ice under maps of nodes: darker than the middle of a diverging map, which means zero.
UNSEEN = "#b9c0c7"
SIGNIFICANT_HATCH = "..."
#: Okabe and Ito 2008: told apart by colour-blind readers.
CATEGORIES = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
    "#8C6D31",
)
#: Published series, apart from the colours of our own.
REFERENCES = ("#D55E00", "#CC79A7", "#E69F00", "#8C6D31", "#7a5195", "#ef5675")
SOURCE_COLOURS = {
    "gravity": "#222222",
    "altimetry": "#0072B2",
    "predicted": "#D55E00",
    "reference": "#E69F00",
}
SPLIT_NAMES = {
    "random": "random (it leaks)",
    "leave_mascon_out": "leave mascons out",
    "forward": "forward in time",
    "both": "mascons out, forward",
}
#: Models, baselines and controls in a reader's words.
MODEL_NAMES = {
    "ridge": "ridge regression",
    "varying_density": "varying density",
    "forest": "random forest",
    "hist_gradient_boosting": "gradient boosting",
    "xgboost": "XGBoost",
    "zero": "zero",
    "persistence": "last month's value",
    "climatology": "calendar month's mean",
    "trend_season": "trend and annual cycle",
    "physics": "elevation × one density",
    "control_noise": "noise control, forest",
    "control_noise_xgboost": "noise control, XGBoost",
    "control_permuted": "labels of other years",
}
TREATMENT_NAMES = {
    "raw": "raw",
    "detrended": "detrended",
    "deseasonalised": "detrended, deseasonalised",
}
MONTH_NAMES = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
TARGET_NAMES = {"change": "monthly change", "cumulative": "cumulative anomaly"}
SEQUENTIAL: Colormap = cm.batlow
DIVERGING: Colormap = cm.vik
CYCLIC: Colormap = cm.romaO
#: Diverging without white, so that its middle is told from ice without a value.
DIVERGING_CLASSES: Colormap = cm.roma
RC: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 7.5,
    "axes.titlesize": 8,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 7.5,
    "axes.edgecolor": EDGE,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "lines.linewidth": 1.0,
    "hatch.linewidth": 0.5,
    "pdf.fonttype": 42,
    "figure.dpi": DPI,
    "savefig.dpi": DPI,
    "figure.constrained_layout.use": True,
}
#: Mascons up to which a number is written in each.
MOST_NUMBERS = 60
#: Steps of a graticule (degrees), finest first.
_STEPS = (0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 45.0)

P = ParamSpec("P")
R = TypeVar("R")


def styled(function: Callable[P, R]) -> Callable[P, R]:
    """Run a drawing function under the project's style."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with matplotlib.rc_context(RC):
            return function(*args, **kwargs)

    return run


def new_figure(height_in: float, width_in: float = PAGE_WIDTH_IN) -> Figure:
    """Return an empty figure of a page's width with a canvas that writes PNG and PDF."""
    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


@styled
def save(figure: Figure, png: str | Path, pdf: str | Path) -> None:
    """Write a figure as PNG (150 dpi) and vector PDF, free of dates and tool versions."""
    # Fonts are subset glyph by glyph, each step a log record that nobody wants.
    logging.getLogger("fontTools").setLevel(logging.WARNING)
    with written(png) as path:
        figure.savefig(path, format="png", dpi=DPI, metadata={"Software": None})
    # The layout stands; solving it again for the second file would take as long as drawing.
    figure.set_layout_engine("none")
    with written(pdf) as path:
        figure.savefig(
            path,
            format="pdf",
            dpi=2 * DPI,
            metadata={"CreationDate": None, "ModDate": None, "Creator": None, "Producer": None},
        )


def save_outputs(output: Any, figures: Mapping[str, Figure]) -> None:
    """Write figures to the outputs ``<name>_png`` and ``<name>_pdf`` of a rule."""
    for name, figure in figures.items():
        save(figure, getattr(output, f"{name}_png"), getattr(output, f"{name}_pdf"))


def head(figure: Figure, title: str, note: str) -> None:
    """Put a title above and a note (months, thresholds, source) under a figure."""
    figure.suptitle(title, fontsize=10, fontweight="bold", x=0.01, ha="left")
    lines = fold(note, int(figure.get_figwidth() * 19))
    # The note gets a strip of its own, so that legends below the axes stand above it.
    strip = (0.14 * (lines.count("\n") + 1) + 0.04) / figure.get_figheight()
    figure.text(0.01, 0.03 / figure.get_figheight(), lines, fontsize=6.5, color=FAINT, va="bottom")
    for legend in figure.legends:
        if legend.get_gid() == "below":
            legend.set_bbox_to_anchor((0, strip, 1, 1 - strip), figure.transFigure)
            renderer = FigureCanvasAgg(figure).get_renderer()
            strip += legend.get_window_extent(renderer).height / figure.bbox.height
            strip += 0.06 / figure.get_figheight()
    engine = figure.get_layout_engine()
    if engine is not None:
        under_title = 0.06 / figure.get_figheight()
        engine.set(rect=(0, strip, 1, 1 - strip - under_title))  # type: ignore[call-arg]


def legend_below(figure: Figure, handles: list[Any], columns: int, **options: Any) -> None:
    """Put a legend between the axes and the note of :func:`head`, which has to follow."""
    legend = figure.legend(handles=handles, loc="lower left", ncols=columns, **options)
    legend.set_gid("below")


def fold(text: str, width: int) -> str:
    """Break a text into lines of at most ``width`` characters."""
    import textwrap

    return "\n".join(textwrap.wrap(text, width))


def months_text(*columns: pd.Series) -> str:
    """Return ``2018-10 to 2024-12`` for columns of times, or ``no month``."""
    found = pd.concat(columns).dropna() if columns else pd.Series(dtype="datetime64[us]")
    if found.empty:
        return "no month"
    return f"{found.min():%Y-%m} to {found.max():%Y-%m}"


def split_name(split: str, unit: str = "mascon") -> str:
    """Return a split in words, of mascons or of basins."""
    return SPLIT_NAMES.get(split, split).replace("mascon", unit)


def source_name(source: str, density_kg_m3: float = float("nan")) -> str:
    """Return a source of totals in words, such as ``altimetry at 850 kg/m³``.

    Parameters
    ----------
    source
        Key of ``applications/totals``: ``gravity``, ``altimetry_<density>``, ``altimetry_fitted``.
    density_kg_m3
        The density where it is known, since the key of a fitted one does not hold it.
    """
    if source == "gravity":
        return "gravity (GRACE)"
    kind, _, density = source.partition("_")
    if kind != "altimetry" or not density:
        return source.replace("_", " ")
    fitted = density == "fitted"
    if np.isfinite(density_kg_m3):
        return f"altimetry at {density_kg_m3:.0f} kg/m³{' (fitted)' if fitted else ''}"
    return "altimetry at a fitted density" if fitted else f"altimetry at {density} kg/m³"


def source_colours(sources: Sequence[str]) -> dict[str, str]:
    """Return the colours of totals, gravity's and one by the order of the others."""
    others = [source for source in sources if source != "gravity"]
    return {"gravity": SOURCE_COLOURS["gravity"]} | {
        source: CATEGORIES[(0, 5, 2, 3)[number % 4]] for number, source in enumerate(others)
    }


def model_name(model: str) -> str:
    """Return a model, baseline or control in words."""
    return MODEL_NAMES.get(model, model.replace("_", " "))


def window_name(name: str) -> str:
    """Return the name of a window as a title has it."""
    words = name.replace("_", " ")
    return words[:1].upper() + words[1:]


def first_reason(*columns: pd.Series, default: str = "no values in the table") -> str:
    """Return the reason a table gives most often for its nulls."""
    reasons = pd.concat([c.dropna() for c in columns]) if columns else pd.Series(dtype=str)
    return str(reasons.mode().iloc[0]) if len(reasons) else default


def state_reason(axes: Axes, reason: str) -> None:
    """Write on the axes, as large as they have room, why nothing is drawn."""
    width_in = slot_width(axes)
    size = float(np.clip(3.6 * width_in, 6.0, 11.0))
    # A bold letter is about two thirds as wide as it is high; 72 points make an inch.
    letters = max(int(0.88 * width_in * 72 / (0.66 * size)), 12)
    axes.text(
        0.5,
        0.5,
        fold(reason.replace("_", " "), letters),
        transform=axes.transAxes,
        ha="center",
        va="center",
        fontsize=size,
        fontweight="bold",
        color="#8b1a1a",
        bbox={"facecolor": "white", "edgecolor": "#8b1a1a", "alpha": 0.9, "pad": 6},
        zorder=20,
        gid="reason",
    )


def slot_width(axes: Axes) -> float:
    """Return the width (inches) that axes will have in their place of a figure's grid.

    Maps keep their aspect, and may be narrower than their place.
    """
    figure: Any = axes.get_figure(root=False)
    place = axes.get_subplotspec()
    box = place.get_position(figure) if place is not None else axes.get_position()
    root: Any = axes.get_figure(root=True)
    width, height = (float(v) for v in box.size * figure.bbox.size / root.dpi)
    if axes.get_aspect() == "auto":
        return width
    across, along = np.ptp(axes.get_xlim()), np.ptp(axes.get_ylim())
    return min(width, height * float(across / along))


def symmetric_norm(values: Any, quantile: float = 0.98, floor: float = 1e-9) -> TwoSlopeNorm:
    """Return a norm centred on zero that reaches the ``quantile`` of |values|, rounded up."""
    finite = np.abs(np.asarray(values, dtype=float))
    finite = finite[np.isfinite(finite)]
    reach = nice_ceiling(max(float(np.quantile(finite, quantile)), floor)) if finite.size else 1.0
    return TwoSlopeNorm(0.0, -reach, reach)


def range_norm(values: Any, quantile: float = 0.98, low: float | None = None) -> Normalize:
    """Return a norm from ``low`` (or the lower quantile) to the upper ``quantile``."""
    finite = np.asarray(values, dtype=float)
    finite = finite[np.isfinite(finite)]
    if not finite.size:
        return Normalize(0.0, 1.0)
    bottom = float(np.quantile(finite, 1 - quantile)) if low is None else low
    top = float(np.quantile(finite, quantile))
    if top <= bottom:
        top = bottom + 1.0
    return Normalize(bottom, nice_ceiling(top) if low is not None else top)


def log_norm(values: Any, quantile: float = 0.98) -> LogNorm:
    """Return a logarithmic norm over the inner ``quantile`` of the positive values, rounded."""
    positive = np.asarray(values, dtype=float)
    positive = positive[np.isfinite(positive) & (positive > 0)]
    if not positive.size:
        return LogNorm(1, 10)
    low = nice_floor(float(np.quantile(positive, 1 - quantile)))
    high = nice_ceiling(float(np.quantile(positive, quantile)))
    return LogNorm(low, max(high, 10 * low))


def nice_ceiling(value: float) -> float:
    """Return the next of 1, 1.5, 2, 2.5, 3 … 8 × a power of ten at or above a value."""
    power = 10.0 ** np.floor(np.log10(value))
    for factor in (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 10.0):
        if value <= factor * power * (1 + 1e-9):
            return float(factor * power)
    return float(10 * power)


def colour_bar(
    figure: Figure, mappable: Any, axes: Any, label: str, values: Any = None, **options: Any
) -> Any:
    """Draw a colour bar with its unit; arrows show where values lie beyond its ends."""
    extend = "neither"
    if values is not None:
        finite = np.asarray(values, dtype=float)
        finite = finite[np.isfinite(finite)]
        low, high = mappable.norm.vmin, mappable.norm.vmax
        below, above = bool((finite < low).any()), bool((finite > high).any())
        extend = {(0, 0): "neither", (1, 0): "min", (0, 1): "max", (1, 1): "both"}[below, above]
    settings = {"shrink": 0.85, "pad": 0.02, "aspect": 28} | options
    bar = figure.colorbar(mappable, ax=axes, extend=extend, **settings)
    bar.set_label(label)
    bar.ax.set_gid(f"colour_bar {extend}")
    bar.outline.set_linewidth(0.4)
    return bar


def beyond_text(values: Any, norm: Normalize) -> str:
    """Return a sentence on the values that a colour bar does not reach, if there are any."""
    finite = np.asarray(values, dtype=float)
    finite = finite[np.isfinite(finite)]
    parts = []
    for found, end, extreme in (
        (finite[finite < norm.vmin], norm.vmin, np.min),
        (finite[finite > norm.vmax], norm.vmax, np.max),
    ):
        if found.size:
            side, way = ("below", "down") if end == norm.vmin else ("above", "up")
            far = float(extreme(found))
            reach = f"{far:,.0f}" if abs(far) >= 1000 else f"{far:.3g}"
            parts.append(f"{found.size:,} {side} {end:,g}, {way} to {reach}")
    if not parts:
        return ""
    said = f"Of {finite.size:,} values the colour bar leaves out {' and '.join(parts)}."
    return said.replace("-", "−")


@dataclass(frozen=True)
class BaseMap:
    """What lies under every map of a region, in its CRS (metres), simplified for drawing.

    Attributes
    ----------
    title
        Name of the region.
    crs
        Projected CRS.
    ice
        Outline of the ice.
    land
        Land inside the frame, or None where the region names no coast.
    extent
        x_min, y_min, x_max, y_max of the frame (m).
    """

    title: str
    crs: str
    ice: BaseGeometry
    land: BaseGeometry | None
    extent: tuple[float, float, float, float]

    @property
    def aspect(self) -> float:
        """Return height over width of the frame."""
        x_min, y_min, x_max, y_max = self.extent
        return (y_max - y_min) / (x_max - x_min)

    @property
    def holds_pole(self) -> bool:
        """Return whether the pole of the projection lies in the frame."""
        return _holds_pole(self.extent, self.crs)

    def panel_height(self, columns: float) -> float:
        """Return the height (inches) of a map that is one of so many beside each other.

        Labels of the graticule stand to its left, around a pole to its right, too.
        """
        beside = 0.69 if self.holds_pole else 0.36
        return (PAGE_WIDTH_IN / columns - beside) * self.aspect


def base_map(region: RegionSettings) -> BaseMap:
    """Return a region's base map from its outline and coast.

    Raises
    ------
    cryofuse.geo.OutlineError
        If a file is missing or empty.
    """
    outline = load_outline(region)
    x_min, y_min, x_max, y_max = outline.bounds
    pad = 0.07 * max(x_max - x_min, y_max - y_min)
    extent = (x_min - pad, y_min - pad, x_max + pad, y_max + pad)
    tolerance = max(extent[2] - extent[0], extent[3] - extent[1]) / 2500
    land = None
    if region.coast:
        # Snapping to a metre leaves no seam where a file is cut at a meridian.
        coast = shapely.set_precision(read_vector(region.coast, region.crs), 1.0)
        land = _polygons(shapely.clip_by_rect(coast, *extent).simplify(tolerance))
        land = None if land.is_empty else land
    outline = shapely.set_precision(outline, 1.0)
    return BaseMap(region.title, region.crs, _polygons(outline.simplify(tolerance)), land, extent)


def _polygons(geometry: BaseGeometry) -> BaseGeometry:
    """Return the polygons of a geometry, made valid."""
    parts = shapely.get_parts(shapely.make_valid(geometry), return_index=False)
    kept = [
        p
        for part in parts
        for p in shapely.get_parts(part)
        if p.geom_type in ("Polygon", "MultiPolygon")
    ]
    return shapely.union_all(kept) if kept else shapely.MultiPolygon()


def outline_path(geometry: BaseGeometry) -> Outline:
    """Return polygons with their holes as one drawable path, metres to kilometres."""
    points: list[np.ndarray] = []
    codes: list[np.ndarray] = []
    for polygon in shapely.get_parts(geometry):
        for ring in (polygon.exterior, *polygon.interiors):
            xy = shapely.get_coordinates(ring) / 1e3
            code = np.full(len(xy), Outline.LINETO)
            code[0], code[-1] = Outline.MOVETO, Outline.CLOSEPOLY
            points.append(xy)
            codes.append(code)
    if not points:
        return Outline(np.empty((0, 2)))
    return Outline(np.concatenate(points), np.concatenate(codes))


def draw_base(
    axes: Axes,
    base: BaseMap,
    *,
    window: tuple[float, float, float, float] | None = None,
    labels: bool = True,
    ice: str = ICE,
) -> None:
    """Draw land, ice, graticule and scale bar, and set the frame.

    Parameters
    ----------
    axes
        Axes to draw on; in kilometres afterwards.
    base
        The region's base map.
    window
        Frame (m) in place of the region's, for a close-up.
    labels
        Whether the graticule is labelled.
    ice
        Colour of the ice; ``UNSEEN`` under nodes.
    """
    x_min, y_min, x_max, y_max = window or base.extent
    axes.set_facecolor(OCEAN)
    if base.land is not None:
        axes.add_patch(
            PathPatch(
                outline_path(base.land), facecolor=LAND, edgecolor="#a39d92", lw=0.4, zorder=1
            )
        )
    axes.add_patch(PathPatch(outline_path(base.ice), facecolor=ice, edgecolor="none", zorder=1.1))
    axes.add_patch(
        PathPatch(outline_path(base.ice), facecolor="none", edgecolor=EDGE, lw=0.5, zorder=6)
    )
    axes.set_xlim(x_min / 1e3, x_max / 1e3)
    axes.set_ylim(y_min / 1e3, y_max / 1e3)
    axes.set_aspect("equal")
    # A map lower than its place stands right below its title.
    axes.set_anchor("N")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(True)
    _draw_graticule(axes, base.crs, (x_min, y_min, x_max, y_max), labels)
    _draw_scale_bar(axes, base.crs, (x_min, y_min, x_max, y_max))


def _step(span: float, wanted: int) -> float:
    for step in _STEPS:
        if span / step <= wanted:
            return step
    return _STEPS[-1]


def _label(value: float, positive: str, negative: str) -> str:
    value = (value + 180) % 360 - 180 if positive == "E" else value
    text = f"{abs(value):g}°"
    if value == 0 or (positive == "E" and abs(value) == 180):
        return text
    return text + (positive if value > 0 else negative)


def _holds_pole(frame: tuple[float, float, float, float], crs: str) -> bool:
    x_min, y_min, x_max, y_max = frame
    _, latitude = unproject((x_min + x_max) / 2, (y_min + y_max) / 2, crs)
    x, y = project(0.0, float(np.copysign(90.0, latitude)), crs)
    return bool(x_min < x < x_max and y_min < y < y_max)


def _draw_graticule(
    axes: Axes, crs: str, frame: tuple[float, float, float, float], labels: bool
) -> None:
    x_min, y_min, x_max, y_max = frame
    grid_x, grid_y = np.meshgrid(np.linspace(x_min, x_max, 41), np.linspace(y_min, y_max, 41))
    lon, lat = unproject(grid_x, grid_y, crs)
    whole = _holds_pole(frame, crs)
    # Longitudes are measured from the frame's own middle, so that 180° is no border.
    middle = float(unproject((x_min + x_max) / 2, (y_min + y_max) / 2, crs)[0])
    away = (lon - middle + 180) % 360 - 180
    lon_range = (-180.0, 180.0) if whole else (float(away.min()), float(away.max()))
    lat_range = float(np.nanmin(lat)), float(np.nanmax(lat))
    close = x_max - x_min < 200e3
    lon_step = 30.0 if whole else _step(lon_range[1] - lon_range[0], 3 if close else 7)
    lat_step = _step(lat_range[1] - lat_range[0], 3 if close else 6)
    taken: list[tuple[float, float]] = []
    first = np.ceil((middle + lon_range[0]) / lon_step) * lon_step
    stop = middle + lon_range[1]
    meridians = np.arange(first, stop + (-1e-9 if whole else 1e-9), lon_step)
    parallels = np.arange(
        np.ceil(lat_range[0] / lat_step) * lat_step, lat_range[1] + 1e-9, lat_step
    )
    style: dict[str, Any] = {"color": "#8fa3b0", "lw": 0.35, "zorder": 5, "alpha": 0.8}
    along_lat = np.linspace(max(lat_range[0] - 1, -90), min(lat_range[1] + 1, 90), 200)
    if whole:
        along_lat = along_lat[np.abs(along_lat) <= 90 - lat_step / 2]
    along_lon = np.linspace(middle + lon_range[0] - 1, middle + lon_range[1] + 1, 400)
    for value in meridians:
        x, y = project(np.full(along_lat.size, value), along_lat, crs)
        axes.plot(x / 1e3, y / 1e3, **style)
        if labels:
            # The corner of a close-up is needed for what it shows.
            if whole:
                edges: tuple[str, ...] = ("bottom", "top", "left", "right")
            else:
                edges = ("bottom",) if close else ("bottom", "top")
            _label_edge(axes, x, y, frame, edges, _label(value, "E", "W"), taken)
    for value in parallels:
        if abs(value) == 90:
            continue
        x, y = project(along_lon, np.full(along_lon.size, value), crs)
        axes.plot(x / 1e3, y / 1e3, **style)
        if labels and not whole:
            _label_edge(axes, x, y, frame, ("left",), _label(value, "N", "S"), taken)
        elif labels:
            mark_x, mark_y = project(45.0, value, crs)
            if x_min < mark_x < x_max and y_min < mark_y < y_max:
                axes.text(
                    float(mark_x) / 1e3,
                    float(mark_y) / 1e3,
                    _label(value, "N", "S"),
                    fontsize=5.5,
                    color="#5b6b75",
                    ha="center",
                    va="center",
                    zorder=7,
                    path_effects=halo(),
                )


def _label_edge(
    axes: Axes,
    x: np.ndarray,
    y: np.ndarray,
    frame: tuple[float, float, float, float],
    edges: tuple[str, ...],
    text: str,
    taken: list[tuple[float, float]],
) -> None:
    """Label a line where it leaves the frame, unless another label is near."""
    x_min, y_min, x_max, y_max = frame
    room = 0.12 * (x_max - x_min)
    for name in edges:
        across, along = (y, x) if name in ("bottom", "top") else (x, y)
        border = {"bottom": y_min, "top": y_max, "left": x_min, "right": x_max}[name]
        low, high = (x_min, x_max) if name in ("bottom", "top") else (y_min, y_max)
        side = np.sign(across - border)
        crossing = np.flatnonzero(side[:-1] * side[1:] < 0)
        for i in crossing:
            share = (border - across[i]) / (across[i + 1] - across[i])
            at = along[i] + share * (along[i + 1] - along[i])
            if not low + 0.02 * (high - low) < at < high - 0.02 * (high - low):
                continue
            offsets = {
                "bottom": (0, -2, "center", "top"),
                "top": (0, -3, "center", "top"),
                "left": (-2, 0, "right", "center"),
                "right": (2, 0, "left", "center"),
            }[name]
            spot = (at, border) if name in ("bottom", "top") else (border, at)
            if any(np.hypot(spot[0] - a, spot[1] - b) < room for a, b in taken):
                continue
            taken.append(spot)
            xy = (at / 1e3, border / 1e3) if name in ("bottom", "top") else (border / 1e3, at / 1e3)
            axes.annotate(
                text,
                xy,
                xytext=offsets[:2],
                textcoords="offset points",
                ha=offsets[2],
                va=offsets[3],
                fontsize=6,
                color="#5b6b75",
                annotation_clip=False,
                path_effects=halo() if name == "top" else None,
                zorder=12,
            )
            return


def _draw_scale_bar(axes: Axes, crs: str, frame: tuple[float, float, float, float]) -> None:
    x_min, y_min, x_max, y_max = frame
    width = x_max - x_min
    length = nice_floor(width * 0.25 / 1e3) * 1e3
    factor = float(np.sqrt(scale_factor((x_min + x_max) / 2, (y_min + y_max) / 2, crs)))
    drawn = length / factor
    x0 = x_max - 0.05 * width - drawn
    y0 = y_min + 0.035 * (y_max - y_min)
    tick = 0.008 * (y_max - y_min)
    axes.plot(
        np.array([x0, x0, x0 + drawn, x0 + drawn]) / 1e3,
        np.array([y0 + tick, y0, y0, y0 + tick]) / 1e3,
        color=INK,
        lw=1.0,
        zorder=12,
        gid="scale_bar",
        path_effects=halo(),
    )
    axes.text(
        (x0 + drawn / 2) / 1e3,
        (y0 + 1.5 * tick) / 1e3,
        f"{length / 1e3:g} km",
        ha="center",
        va="bottom",
        fontsize=6,
        color=INK,
        zorder=12,
        path_effects=halo(),
    )


def halo(colour: Any = "white") -> list[Any]:
    """Return the effect that sets text and lines off from what lies under them."""
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=2.0, foreground=colour, alpha=0.85)]


def nice_floor(value: float) -> float:
    """Return the next of 1, 2, 5 × a power of ten at or below a value."""
    power = 10.0 ** np.floor(np.log10(value))
    return float(max(f * power for f in (1.0, 2.0, 5.0) if f * power <= value * (1 + 1e-9)))


@dataclass(frozen=True)
class MasconShapes:
    """Mascon footprints in a region's CRS, cut for drawing (metres).

    Attributes
    ----------
    mascon_id
        Numbers, in the order of the geometries.
    footprint, ice, land
        The footprint, its part on the outline's ice, its part on land (or the ice).
    selected
        Whether the mascon rule chose it.
    place
        Centre in words by mascon_id, such as ``66°N 41°W``.
    unit
        What the footprints are: mascon or basin.
    """

    mascon_id: np.ndarray
    footprint: list[BaseGeometry]
    ice: list[BaseGeometry]
    land: list[BaseGeometry]
    selected: np.ndarray
    place: dict[int, str]
    unit: str


def place_text(latitude: float, longitude: float) -> str:
    """Return a place in whole degrees, such as ``66°N 41°W``."""
    east = (longitude + 180) % 360 - 180
    north_south, east_west = "N" if latitude >= 0 else "S", "E" if east >= 0 else "W"
    return f"{abs(latitude):.0f}°{north_south} {abs(east):.0f}°{east_west}"


def cut_mascons(
    mascons: geopandas.GeoDataFrame, base: BaseMap, unit: str = "mascon"
) -> MasconShapes:
    """Return the footprints in the base map's CRS and their parts on ice and land.

    Parameters
    ----------
    mascons
        Table ``gravimetry/mascons``.
    base
        Base map of the region.
    unit
        What the footprints are: mascon or basin.
    """
    frame = mascons.sort_values("mascon_id")
    source = "EPSG:4326" if frame.crs is None else str(frame.crs)
    step = 0.25 if source == "EPSG:4326" else 10_000
    footprint, ice, land = [], [], []
    for geometry in frame.geometry:
        moved = _polygons(reproject(shapely.segmentize(geometry, step), source, base.crs))
        footprint.append(moved)
        ice.append(_polygons(shapely.intersection(moved, base.ice)))
        ground = base.ice if base.land is None else shapely.union(base.ice, base.land)
        land.append(_polygons(shapely.intersection(moved, ground)))
    selected = frame["selected"].to_numpy(dtype=bool)
    place = {
        int(i): place_text(latitude, longitude)
        for i, latitude, longitude in zip(
            frame["mascon_id"], frame["latitude"], frame["longitude"], strict=True
        )
    }
    return MasconShapes(frame["mascon_id"].to_numpy(), footprint, ice, land, selected, place, unit)


def draw_mascons(
    axes: Axes,
    shapes: MasconShapes,
    values: Mapping[int, float],
    cmap: Colormap,
    norm: Normalize,
    *,
    significant: Mapping[int, bool] | None = None,
    untold: bool = True,
    number: Callable[[float], str] | None = None,
    avoid: np.ndarray | None = None,
    panel_in: float = 3.2,
) -> PatchCollection:
    """Draw one value per mascon: strong on its ice, pale on other land, footprint outlined.

    Parameters
    ----------
    axes
        Axes with a base map.
    shapes
        Cut footprints.
    values
        Value by mascon_id; missing or NaN ones are hatched grey.
    cmap, norm
        Colours.
    significant
        Mascons to stipple.
    untold
        Whether mascons that are not significant are coloured; else they stay white, with a
        faint number.
    number
        What is written of the value in each mascon with room for it; None writes none, and
        neither do maps of more than sixty mascons.
    avoid
        Points x, y (m) of other marks, which numbers keep away from.
    panel_in
        Width of the panel (inches), which decides how much room a number takes.

    Returns
    -------
    PatchCollection
        Patches on ice of the mascons with a value, in order of mascon_id, with the values as
        its array and ``gid`` "mascons".
    """
    given = np.array([float(values.get(int(i), np.nan)) for i in shapes.mascon_id])
    here = np.isfinite(given)
    chosen = significant or {}
    told = np.array([untold or chosen.get(int(i), False) for i in shapes.mascon_id])
    for part, zorder in ((shapes.land, 2.0), (shapes.ice, 2.2)):
        for geometry, value in zip(part, given, strict=True):
            if geometry.is_empty or np.isfinite(value):
                continue
            axes.add_patch(
                PathPatch(
                    outline_path(geometry),
                    facecolor=NULL_FACE,
                    edgecolor=NULL_EDGE,
                    hatch=NULL_HATCH,
                    lw=0,
                    zorder=zorder,
                    gid="null_mascon",
                )
            )
    for geometry, value, coloured in zip(shapes.land, given, told, strict=True):
        if np.isfinite(value) and coloured and not geometry.is_empty:
            axes.add_patch(
                PathPatch(
                    outline_path(geometry),
                    facecolor=cmap(norm(value)),
                    alpha=0.35,
                    lw=0,
                    zorder=2.1,
                )
            )
    patches = [PathPatch(outline_path(g)) for g, h in zip(shapes.ice, here, strict=True) if h]
    collection = PatchCollection(patches, cmap=cmap, norm=norm, lw=0, zorder=2.3, gid="mascons")
    collection.set_array(given[here])
    if not told[here].all():
        collection.set_alpha(told[here].astype(float))
    axes.add_collection(collection, autolim=False)
    for geometry, chosen in zip(shapes.footprint, shapes.selected, strict=True):
        axes.add_patch(
            PathPatch(
                outline_path(geometry),
                facecolor="none",
                edgecolor=INK if chosen else FAINT,
                lw=0.35,
                ls="-" if chosen else (0, (4, 3)),
                zorder=4,
            )
        )
    if significant is not None:
        for geometry, number_id, value in zip(shapes.ice, shapes.mascon_id, given, strict=True):
            if significant.get(int(number_id), False) and not geometry.is_empty:
                axes.add_patch(
                    PathPatch(
                        outline_path(geometry),
                        facecolor="none",
                        edgecolor=ink_on(cmap(norm(value))) if np.isfinite(value) else INK,
                        hatch=SIGNIFICANT_HATCH,
                        lw=0,
                        zorder=3,
                        gid=f"significant_{number_id}",
                    )
                )
    if number is not None and len(given) <= MOST_NUMBERS:
        x_low, x_high = axes.get_xlim()
        room = 0.06 / panel_in * (x_high - x_low) * 1e3
        places = _label_places(shapes, room, avoid)
        for place, value, coloured in zip(places, given, told, strict=True):
            if place is not None and np.isfinite(value):
                face = cmap(norm(value)) if coloured else ICE
                ink = ink_on(face) if coloured else FAINT
                write_value(axes, place, number(value), face, ink)
    return collection


def decimals(digits: int, sign: str = "") -> Callable[[float], str]:
    """Return a formatter of numbers in a map: so many decimals, fewer from ten on, no −0.

    With one decimal, what would read 0.0 has two: its sign is to be seen.
    """

    def write(value: float) -> str:
        places = digits if abs(value) < 10 else 0
        if digits == 1 and float(format(value, ".1f")) == 0:
            places = 2
        text = format(value, f"{sign}.{places}f")
        return text.lstrip("+-") if float(text) == 0 else text

    return write


def ink_on(face: Any) -> str:
    """Return the ink that can be read on a coloured face."""
    red, green, blue = matplotlib.colors.to_rgb(face)
    return "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 0.55 else INK


def write_value(
    axes: Axes, place: tuple[float, float], text: str, face: Any, ink: str | None = None
) -> None:
    """Write a small number on a patch of its face's colour, in the ink that is read there."""
    axes.text(
        place[0] / 1e3,
        place[1] / 1e3,
        text.replace("-", "−"),
        ha="center",
        va="center",
        fontsize=5.4,
        color=ink or ink_on(face),
        zorder=8,
        clip_on=True,
        bbox={"boxstyle": "round,pad=0.3", "facecolor": face, "edgecolor": "none"},
        gid="number",
    )


def _label_places(
    shapes: MasconShapes, room: float, avoid: np.ndarray | None = None
) -> list[tuple[float, float] | None]:
    """Return the centre of the largest circle in each mascon's ice (m), None below a radius.

    The circles keep from the points to avoid, where they still have room then.
    """
    marks = shapely.MultiPoint(() if avoid is None else avoid).buffer(1.2 * room)
    places: list[tuple[float, float] | None] = []
    for geometry in shapes.ice:
        if geometry.is_empty:
            places.append(None)
            continue
        x, y, radius = inner_circle(geometry, marks, room)
        places.append((x, y) if radius >= room else None)
    return places


def inner_circle(
    geometry: BaseGeometry, marks: BaseGeometry, room: float
) -> tuple[float, float, float]:
    """Return centre and radius (m) of the largest circle in a geometry's largest part.

    It keeps off the marks, where it has the room then.
    """
    largest = max(shapely.get_parts(geometry), key=lambda part: part.area)
    free = largest.difference(marks)
    for part in (*sorted(shapely.get_parts(free), key=shapely.area)[-1:], largest):
        circle = shapely.maximum_inscribed_circle(part, tolerance=np.sqrt(part.area) / 30)
        if shapely.length(circle) >= room:
            break
    x, y = shapely.get_coordinates(circle)[0]
    return float(x), float(y), float(shapely.length(circle))


def mascon_handles(shapes: MasconShapes, *values: Mapping[int, float]) -> list[Patch]:
    """Return legend handles for what the maps of a figure show: no value, dashed, stipple.

    Parameters
    ----------
    shapes
        Cut mascons.
    *values
        Values by mascon_id of every map of the figure.
    """
    handles = []
    given = [float(v.get(int(i), np.nan)) for v in values for i in shapes.mascon_id]
    if not np.isfinite(given).all():
        handles.append(
            Patch(
                facecolor=NULL_FACE, edgecolor=NULL_EDGE, hatch=NULL_HATCH, lw=0, label="no value"
            )
        )
    if not shapes.selected.all():
        handles.append(
            Patch(
                facecolor="none",
                edgecolor=FAINT,
                ls=(0, (3, 2)),
                lw=0.7,
                label="footprint not in the totals",
            )
        )
    handles.append(Patch(facecolor="#8fb3c9", alpha=0.35, lw=0, label="pale: its ice-free land"))
    return handles


def unseen_handle(label: str) -> Patch:
    """Return the legend handle of ice without a value in a map of nodes."""
    return Patch(facecolor=UNSEEN, edgecolor=EDGE, lw=0.4, label=label)


def draw_nodes(
    axes: Axes, nodes: pd.DataFrame, column: str, cmap: Colormap, norm: Normalize | None
) -> list[AxesImage]:
    """Draw a node column as cells of each node's own spacing, finest on top.

    Parameters
    ----------
    axes
        Axes with a base map (kilometres).
    nodes
        Columns x_m, y_m, spacing_m, window and ``column``.
    column
        Column to draw; null cells stay empty.
    cmap, norm
        Colours.

    Returns
    -------
    list of AxesImage
        One image per spacing and window (rasters in the PDF too), ``gid`` "nodes".
    """
    limits = axes.get_xlim(), axes.get_ylim()
    images = []
    known = nodes.dropna(subset=[column])
    groups = known.groupby(["spacing_m", known["window"].fillna("")], sort=True)
    keyed: list[Any] = list(groups)
    for (spacing, _), group in reversed(keyed):
        column_index = np.rint((group["x_m"] - group["x_m"].min()) / spacing).astype(int).to_numpy()
        row_index = np.rint((group["y_m"] - group["y_m"].min()) / spacing).astype(int).to_numpy()
        cells = np.full((row_index.max() + 1, column_index.max() + 1), np.nan)
        cells[row_index, column_index] = group[column].to_numpy(dtype=float)
        half = spacing / 2
        images.append(
            axes.imshow(
                np.ma.masked_invalid(cells),
                extent=(
                    (group["x_m"].min() - half) / 1e3,
                    (group["x_m"].max() + half) / 1e3,
                    (group["y_m"].min() - half) / 1e3,
                    (group["y_m"].max() + half) / 1e3,
                ),
                origin="lower",
                interpolation="nearest",
                cmap=cmap,
                norm=norm,
                zorder=2 + 1e3 / (1e3 + spacing),
                gid="nodes",
            )
        )
    axes.set_xlim(*limits[0])
    axes.set_ylim(*limits[1])
    axes.set_aspect("equal")
    return images


def window_frames(nodes: pd.DataFrame) -> dict[str, tuple[float, float, float, float]]:
    """Return the frame (m) of every window that nodes belong to, a little wider than it."""
    frames = {}
    for name, group in nodes.dropna(subset=["window"]).groupby("window", sort=True):
        pad = 0.08 * max(np.ptp(group["x_m"]), np.ptp(group["y_m"]), group["spacing_m"].max())
        pad += group["spacing_m"].max() / 2
        frames[str(name)] = (
            float(group["x_m"].min() - pad),
            float(group["y_m"].min() - pad),
            float(group["x_m"].max() + pad),
            float(group["y_m"].max() + pad),
        )
    return frames


def mark_windows(
    axes: Axes,
    frames: Mapping[str, tuple[float, float, float, float]],
    letters: Sequence[str],
    notes: Sequence[str] = (),
) -> None:
    """Mark close-up windows on the main map with their letters, and a note below each."""
    texts = [f"{letter}\n{note}" for letter, note in zip(letters, notes, strict=False)] or letters
    for letter, text, (x_min, y_min, x_max, y_max) in zip(
        letters, texts, frames.values(), strict=True
    ):
        x, y = (x_min + x_max) / 2e3, (y_min + y_max) / 2e3
        for size, colour, width in ((6.8, "white", 1.0), (5.2, INK, 1.0)):
            axes.plot(
                x, y, marker="s", ms=size, mfc="none", mec=colour, mew=width, zorder=10,
                gid=f"window_{letter}",
            )  # fmt: skip
        axes.annotate(
            text,
            (x, y),
            xytext=(5, 4),
            textcoords="offset points",
            fontsize=6.3 if notes else 7.5,
            fontweight="bold",
            zorder=10,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.6},
        )


def map_with_windows(
    base: BaseMap, nodes: pd.DataFrame, height_in: float = 6.2, ice: str = ICE
) -> tuple[Figure, Axes, dict[str, Axes]]:
    """Return a figure with the region's map and up to three close-ups beside it.

    Returns
    -------
    tuple
        Figure, axes of the map, axes of the close-up by window name (base maps drawn).
    """
    frames = dict(list(window_frames(nodes).items())[:3])
    if not frames:
        figure = new_figure(height_in, min(PAGE_WIDTH_IN, height_in / base.aspect + 1.2))
        axes = figure.add_subplot()
        draw_base(axes, base, ice=ice)
        return figure, axes, {}
    figure = new_figure(height_in)
    grid = figure.add_gridspec(3, 2, width_ratios=(2.2, 1))
    axes = figure.add_subplot(grid[:, 0])
    draw_base(axes, base, ice=ice)
    letters = "ABC"[: len(frames)]
    mark_windows(axes, frames, letters)
    close = {}
    for row, (letter, (name, frame)) in enumerate(zip(letters, frames.items(), strict=True)):
        closer = figure.add_subplot(grid[row, 1])
        draw_base(closer, base, window=frame, ice=ice)
        closer.set_title(f"{letter}  {window_name(name)}", fontsize=7.5)
        close[name] = closer
    return figure, axes, close


def month_axis(axes: Axes, years: int = 1) -> None:
    """Set yearly ticks on a time axis, monthly ones where it spans less than two years."""
    from matplotlib.dates import AutoDateLocator, DateFormatter, YearLocator

    short = float(np.ptp(axes.get_xlim())) < 730
    locator = AutoDateLocator(minticks=2, maxticks=6) if short else YearLocator(years)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(DateFormatter("%Y-%m" if short else "%Y"))


def with_gaps(frame: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Return one row per calendar month from first to last, null where there was none.

    Lines drawn from it break at gaps instead of joining over them.
    """
    if frame.empty:
        return frame[["month", *columns]]
    whole = pd.date_range(frame["month"].min(), frame["month"].max(), freq="MS").as_unit("us")
    known = frame[["month", *columns]].set_index("month")
    return known.reindex(whole).rename_axis("month").reset_index()


def lone_points(values: np.ndarray) -> np.ndarray:
    """Return the indices of values between two gaps, which a line would not show."""
    here = np.isfinite(values)
    before = np.concatenate([[False], here[:-1]])
    after = np.concatenate([here[1:], [False]])
    return np.flatnonzero(here & ~before & ~after)
