"""The dashboard: one page with map, series, totals and sea level that works without a network.

The page is inline SVG, CSS and plain JavaScript over embedded JSON: a keyboard, a screen reader
and a printer can reach all of it, and it weighs little more than its numbers. Numbers are
embedded as they stand in the tables; what is missing is null. The policy in its head forbids
every request and every script but its own.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import shapely
from matplotlib.colors import Colormap, Normalize, to_hex
from shapely.geometry.base import BaseGeometry

from cryofuse.calendar import month_range
from cryofuse.products import style
from cryofuse.products.figures_maps import SPLIT_NAMES, TREATMENTS, best_model, mascon_scores
from cryofuse.products.style import BaseMap, MasconShapes
from cryofuse.products.summary import describe_sea_level

if TYPE_CHECKING:
    import geopandas

#: Columns of ``product/months`` that the page shows and hands out, beside mascon and month.
SERIES = (
    "dh_m",
    "dh_sigma_m",
    "predicted_change_gt",
    "predicted_change_lower_gt",
    "predicted_change_upper_gt",
    "predicted_mass_gt",
    "predicted_mass_lower_gt",
    "predicted_mass_upper_gt",
    "observed_change_gt",
    "observed_change_sigma_gt",
    "observed_mass_gt",
    "observed_mass_sigma_gt",
)
#: Columns of ``applications/totals`` that the page shows and hands out.
TOTALS_COLUMNS = (
    "source",
    "density_kg_m3",
    "month",
    "mass_gt",
    "mass_sigma_gt",
    "mass_change_gt",
    "mass_change_sigma_gt",
    "sea_level_mm",
    "sea_level_sigma_mm",
    "n_mascons",
)
LAKES_COLUMNS = (
    "lake_id",
    "latitude",
    "longitude",
    "area_km2",
    "volume_range_km3",
    "first_fill",
    "first_drain",
    "mascon_id",
)
#: Colours of a palette; more cannot be told apart.
PALETTE_STEPS = 65
#: Frame over the smallest step of a drawn outline: finer than a pixel of any screen.
MAP_STEPS = 1500
#: Steps that labels of the graticule keep from the frame's sides.
LABEL_MARGIN = 50


def build_data(
    *,
    title: str,
    months: tuple[str, str],
    product: pd.DataFrame,
    fusion: pd.DataFrame,
    mascons: geopandas.GeoDataFrame,
    regimes: pd.DataFrame,
    centroids: pd.DataFrame,
    scores: pd.DataFrame,
    explained: pd.DataFrame,
    coupling: pd.DataFrame,
    case_study: pd.DataFrame,
    totals: pd.DataFrame,
    sea_level: pd.DataFrame,
    lakes: pd.DataFrame,
    fdr: float,
) -> dict[str, Any]:
    """Return what the page shows as plain values.

    Parameters
    ----------
    title
        Name of the region.
    months
        First and last month, ``YYYY-MM``.
    product, fusion, mascons, regimes, centroids, scores, explained, coupling, case_study, \
    totals,     sea_level, lakes
        Tables ``product/months``, ``fusion/mascon_months``, ``gravimetry/mascons``,
        ``regimes/mascons``, ``regimes/centroids``, ``skill/scores``, ``explained/mascons``,
        ``coupling/mascons``, ``applications/case_study``, ``applications/totals``,
        ``applications/sea_level`` and ``hydrology/lakes``.
    fdr
        False discovery rate up to which a mascon's coupling is marked.

    Returns
    -------
    dict
        Keys title, months, gravimetry (whether a month has any), mascons, series, reasons,
        layers, palettes and tables; numbers unrounded, missing values None.
    """
    frame = mascons.sort_values("mascon_id")
    ids = [int(i) for i in frame["mascon_id"]]
    times = pd.DatetimeIndex(month_range(*months))
    layers = [
        *_elevation_layers(fusion, product, ids),
        *_mass_layers(product),
        *_skill_layers(scores, ids),
        *_explained_layers(explained, ids),
        *_coupling_layers(coupling, ids, fdr),
        *_regime_layers(regimes, centroids, ids),
        *_season_layers(case_study, ids),
    ]
    candidates = lakes[lakes["status"] == "candidate"]
    return {
        "title": title,
        "months": [f"{month:%Y-%m}" for month in times],
        "gravimetry": _gravimetry(product, times),
        "mascons": [
            {
                "id": int(row.mascon_id),
                "latitude": float(row.latitude),
                "longitude": (float(row.longitude) + 180) % 360 - 180,
                "ice_area_km2": float(row.ice_area_km2),
                "selected": bool(row.selected),
            }
            for row in frame.itertuples()
        ],
        "series": {name: _grid(product, name, ids, times) for name in SERIES},
        "has_gravimetry": _flags(product, ids, times),
        "reasons": _reasons(product, ids, times),
        "layers": layers,
        "palettes": {
            "diverging": _hexes(style.DIVERGING),
            "diverging_reversed": _hexes(style.DIVERGING.reversed()),
        },
        "tables": {
            "totals": _table(totals, TOTALS_COLUMNS),
            "sea_level": _table(sea_level, [c for c in sea_level if c != "reason"]),
            "lakes": _table(candidates, LAKES_COLUMNS),
        },
    }


def _value(value: Any) -> Any:
    """Return a value of a table as JSON holds it; every kind of null is None."""
    if pd.isna(value):
        return None
    if isinstance(value, pd.Timestamp):
        return f"{value:%Y-%m}"
    if isinstance(value, np.generic):
        return _value(value.item())
    return value if not isinstance(value, float) or np.isfinite(value) else None


def _table(frame: pd.DataFrame, columns: Sequence[str]) -> dict[str, Any]:
    rows = frame[list(columns)].astype(object).to_numpy().tolist()
    return {"columns": list(columns), "rows": [[_value(v) for v in row] for row in rows]}


def _hexes(cmap: Colormap) -> list[str]:
    return [to_hex(colour) for colour in cmap(np.linspace(0, 1, PALETTE_STEPS))]


def _wide(product: pd.DataFrame, column: str, ids: list[int], times: pd.Index) -> pd.DataFrame:
    wide = product.pivot(index="mascon_id", columns="month", values=column)
    return wide.reindex(index=ids, columns=times)


def _grid(product: pd.DataFrame, column: str, ids: list[int], times: pd.Index) -> list[Any]:
    """Return a column as a list per mascon with a value per month."""
    cells = _wide(product, column, ids, times).to_numpy(dtype=float)
    return [[v if np.isfinite(v) else None for v in row] for row in cells.tolist()]


def _flags(product: pd.DataFrame, ids: list[int], times: pd.Index) -> list[Any]:
    wide = _wide(product, "has_gravimetry", ids, times).astype(object)
    return [[_value(v) for v in row] for row in wide.to_numpy().tolist()]


def _gravimetry(product: pd.DataFrame, times: pd.Index) -> list[bool]:
    here = product.groupby("month")["has_gravimetry"].any().reindex(times, fill_value=False)
    return [bool(v) for v in here]


def _reasons(product: pd.DataFrame, ids: list[int], times: pd.Index) -> dict[str, Any]:
    """Return why predictions are missing: the texts, and which one holds by mascon and month."""
    wide = _wide(product, "reason", ids, times)
    texts = sorted(product["reason"].dropna().unique())
    number = {text: index for index, text in enumerate(texts)}
    rows = wide.astype(object).to_numpy().tolist()
    return {"texts": texts, "index": [[number.get(v) for v in row] for row in rows]}


def _by_id(values: Mapping[int, Any], ids: list[int]) -> list[Any]:
    return [_value(values.get(i)) for i in ids]


def _column(table: pd.DataFrame, column: str) -> dict[int, Any]:
    return dict(zip(table["mascon_id"].astype(int), table[column], strict=True))


def _layer(
    key: str, group: str, title: str, unit: str, norm: Normalize | None, **more: Any
) -> dict[str, Any]:
    """Return a layer: what it is, its colours, and a value per mascon or a monthly column."""
    scale = {} if norm is None else {"low": float(norm.vmin or 0), "high": float(norm.vmax or 0)}
    return {"id": key, "group": group, "title": title, "unit": unit, "digits": 2} | scale | more


def _elevation_layers(
    fusion: pd.DataFrame, product: pd.DataFrame, ids: list[int]
) -> list[dict[str, Any]]:
    rates = fusion.groupby("mascon_id")["rate_m_yr"].first()
    reasons = fusion.groupby("mascon_id")["reason"].first()
    return [
        _layer(
            "rate",
            "Elevation",
            "Rate of elevation change",
            "m/yr",
            style.symmetric_norm(rates),
            palette="diverging_reversed",
            column="rate_m_yr",
            values=_by_id(rates.to_dict(), ids),
            reasons=_by_id(reasons.to_dict(), ids),
            note="Mean fitted rate over the mascon's ice; negative is thinning.",
        ),
        _layer(
            "dh",
            "Elevation",
            "Elevation anomaly of the month",
            "m",
            style.symmetric_norm(product["dh_m"]),
            palette="diverging_reversed",
            column="dh_m",
            monthly=True,
            note="Mean elevation change over the mascon's ice against the reference date.",
        ),
    ]


def _mass_layers(product: pd.DataFrame) -> list[dict[str, Any]]:
    both = pd.concat([product["observed_change_gt"], product["predicted_change_gt"]])
    norm = style.symmetric_norm(both)
    titles = {
        "observed": ("Observed mass change of the month (GRACE)", "Null in months without GRACE."),
        "predicted": (
            "Predicted mass change of the month",
            "From elevation, by a model that never saw this mascon, also in months without GRACE.",
        ),
    }
    return [
        _layer(
            f"{name}_change",
            "Mass",
            title,
            "Gt",
            norm,
            palette="diverging_reversed",
            column=f"{name}_change_gt",
            monthly=True,
            note=note,
        )
        for name, (title, note) in titles.items()
    ]


def _share_norm() -> Normalize:
    return Normalize(-1.0, 1.0)


def _skill_layers(scores: pd.DataFrame, ids: list[int]) -> list[dict[str, Any]]:
    layers = []
    for split in ("leave_mascon_out", "forward"):
        model = best_model(scores, split, "change")
        values = mascon_scores(scores, model, split, "change", "r2") if model else {}
        rows = scores[(scores["split"] == split) & (scores["target"] == "change")]
        why = style.first_reason(rows["reason"], default="no score")
        by = f"Model {model.replace('_', ' ')}, the best of this split. " if model else ""
        layers.append(
            _layer(
                f"skill_{split}",
                "Skill",
                f"Skill: {SPLIT_NAMES[split]}",
                "R²",
                _share_norm(),
                palette="diverging_reversed",
                column="r2",
                values=_by_id(values, ids),
                reasons=[why] * len(ids),
                note=f"R² of the held-out monthly mass change. {by}Below 0: worse than the "
                "mascon's own mean.",
            )
        )
    return layers


def _explained_layers(explained: pd.DataFrame, ids: list[int]) -> list[dict[str, Any]]:
    rows = explained[(explained["scope"] == "mascon") & (explained["target"] == "change")]
    reasons = _by_id(_column(rows, "reason"), ids)
    return [
        _layer(
            f"explained_{part}",
            "Explained variance",
            f"Explained: {part}",
            "share",
            _share_norm(),
            palette="diverging_reversed",
            column=f"explained_{part}",
            values=_by_id(_column(rows, f"explained_{part}"), ids),
            reasons=reasons,
            note=f"Share of the {'variance' if part == 'total' else part + ' part'} of GRACE's "
            "monthly mass change that held-out predictions explain. Below 0: the prediction adds "
            "variance.",
        )
        for part in ("total", "trend", "seasonal", "interannual")
    ]


def _coupling_layers(coupling: pd.DataFrame, ids: list[int], fdr: float) -> list[dict[str, Any]]:
    layers = []
    for treatment, name in TREATMENTS.items():
        rows = coupling[coupling["best"] & (coupling["treatment"] == treatment)]
        marked = {i: bool(q <= fdr) for i, q in _column(rows, "q_fdr").items()}
        lags = _column(rows, "lag_months")
        known = _column(rows, "r")
        texts = {
            i: f"lag {int(lag):+d} months, "
            + ("significant" if marked[i] else "not told from chance")
            for i, lag in lags.items()
            if pd.notna(known[i])
        }
        layers.append(
            _layer(
                f"coupling_{treatment}",
                "Coupling",
                f"Coupling: {name}",
                "r",
                _share_norm(),
                palette="diverging",
                column="r",
                values=_by_id(known, ids),
                texts=_by_id(texts, ids),
                marked=[bool(marked.get(i, False)) for i in ids],
                reasons=_by_id(_column(rows, "reason"), ids),
                note="Correlation of elevation and mass at the lag where it is largest (positive: "
                f"mass follows). Dots: significant, q ≤ {fdr:g} (false discovery rate).",
            )
        )
    return layers


def _regime_layers(
    regimes: pd.DataFrame, centroids: pd.DataFrame, ids: list[int]
) -> list[dict[str, Any]]:
    known = centroids[(centroids["level"] == "mascons") & centroids["regime"].notna()]
    known = known.sort_values("regime")
    shades = style.SEQUENTIAL(np.linspace(0.02, 0.95, max(len(known), 1)))
    classes = [
        {"value": int(row.regime), "label": str(row.regime_name), "colour": to_hex(shade)}
        for row, shade in zip(known.itertuples(), shades, strict=False)
    ]
    return [
        _layer(
            "regime",
            "Regime",
            "Regime of elevation change",
            "",
            None,
            column="regime",
            classes=classes,
            values=[None if v is None else int(v) for v in _by_id(_column(regimes, "regime"), ids)],
            reasons=_by_id(_column(regimes, "reason"), ids),
            note="K-Means on the mascon's mean metrics; 0 thins fastest.",
        )
    ]


def _season_layers(case_study: pd.DataFrame, ids: list[int]) -> list[dict[str, Any]]:
    rows = case_study[case_study["mascon_id"].notna()]
    masses = style.symmetric_norm(pd.concat([rows["observed_gt"], rows["predicted_gt"]]))
    kinds = (
        ("dh_season_m", "elevation anomaly", "m", style.symmetric_norm(rows["dh_season_m"])),
        ("observed_gt", "observed mass change", "Gt", masses),
        ("predicted_gt", "predicted mass change", "Gt", masses),
    )
    notes = {
        "dh_season_m": "Elevation change of the season against the mean season of other years.",
        "observed_gt": "Mass change of the season seen by GRACE.",
        "predicted_gt": "Mass change of the season by a model trained on other years alone.",
    }
    layers = []
    for year in sorted(rows["year"].unique()):
        mine = rows[rows["year"] == year]
        ranges = {
            int(row.mascon_id): f"{row.predicted_lower_gt:.1f} to {row.predicted_upper_gt:.1f} Gt"
            for row in mine.itertuples()
            if pd.notna(row.predicted_lower_gt)
        }
        for column, name, unit, norm in kinds:
            texts = _by_id(ranges, ids) if column == "predicted_gt" else None
            layers.append(
                _layer(
                    f"season_{year}_{column}",
                    "Melt season",
                    f"Summer {year}: {name}",
                    unit,
                    norm,
                    palette="diverging_reversed",
                    column=column,
                    values=_by_id(_column(mine, column), ids),
                    reasons=_by_id(_column(mine, "reason"), ids),
                    note=notes[column],
                    **({"texts": texts} if texts else {}),
                )
            )
    return layers


def render_page(
    data: Mapping[str, Any],
    *,
    base: BaseMap,
    shapes: MasconShapes,
    lakes: pd.DataFrame,
    sea_level: pd.DataFrame,
    verdict: str,
    synthetic: bool,
    provenance: Mapping[str, Any],
) -> str:
    """Return the page.

    Parameters
    ----------
    data
        What :func:`build_data` returns.
    base, shapes
        Base map and cut mascons, in the order of the data's.
    lakes, sea_level
        Tables ``hydrology/lakes`` and ``applications/sea_level``.
    verdict
        The sentence that the skill table gives.
    synthetic
        Whether the granules are those of a synthetic world.
    provenance
        Plain values: version, code, config, source, inputs, citations.

    Returns
    -------
    str
        One HTML page that asks nothing of a network.
    """
    folder = files("cryofuse.products.dashboard")
    css, script = (folder.joinpath(n).read_text("utf-8") for n in ("page.css", "page.js"))
    candidates = lakes[lakes["status"] == "candidate"]
    months = data["months"]
    return Template(folder.joinpath("page.html").read_text("utf-8")).substitute(
        policy=f"default-src 'none'; style-src {_hash(css)}; script-src {_hash(script)}; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'",
        style=css,
        script=script,
        data=embed_json(data),
        title=html.escape(base.title),
        first=months[0],
        last=months[-1],
        count=len(data["mascons"]),
        last_month=len(months) - 1,
        world=(
            '<p class="warning">A synthetic world with a known truth: these numbers show the '
            "method, not nature.</p>"
            if synthetic
            else ""
        ),
        verdict=html.escape(verdict),
        map=draw_map(base, shapes, candidates),
        sea_level=describe_sea_level(sea_level),
        lakes=_lakes_text(len(lakes), len(candidates)),
        lakes_hidden="" if len(candidates) else "hidden",
        provenance=_provenance(provenance),
    )


def _hash(text: str) -> str:
    """Return the source expression that allows one inline style or script and no other."""
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"


def embed_json(data: Mapping[str, Any]) -> str:
    """Return JSON that no text in it can break out of: ``<``, ``>`` and ``&`` as escapes.

    Raises
    ------
    ValueError
        If a number is not finite.
    """
    text = json.dumps(data, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _lakes_text(found: int, candidates: int) -> str:
    if not candidates:
        return "No candidate of an active subglacial lake was found."
    return (
        f"{candidates} candidates of active subglacial lakes (triangles on the map); "
        f"{found - candidates} look-alikes left out."
    )


def _provenance(values: Mapping[str, Any]) -> str:
    said = {
        "Version": values.get("version"),
        "Code": values.get("code"),
        "Configuration": values.get("config"),
        "Source": values.get("source"),
        "Tables": ", ".join(values.get("inputs", [])),
    }
    rows = "".join(
        f"<dt>{name}</dt><dd>{html.escape(str(value))}</dd>" for name, value in said.items()
    )
    cited = "".join(f"<li>{html.escape(c)}</li>" for c in values.get("citations", []))
    return f"<dl>{rows}</dl><h3>Please cite</h3><ul>{cited}</ul>"


def draw_map(base: BaseMap, shapes: MasconShapes, candidates: pd.DataFrame) -> str:
    """Return the map as inline SVG, in steps of a fine grid over the frame.

    Parameters
    ----------
    base, shapes
        Base map and cut mascons.
    candidates
        Lakes to mark, by ``x_m`` and ``y_m``.
    """
    x_min, y_min, x_max, y_max = base.extent
    step = max(x_max - x_min, y_max - y_min) / MAP_STEPS
    width, height = round((x_max - x_min) / step), round((y_max - y_min) / step)

    def place(x: Any, y: Any) -> np.ndarray:
        scaled = np.column_stack([np.asarray(x) - x_min, y_max - np.asarray(y)]) / step
        return np.rint(scaled).astype(int)

    def path(geometry: BaseGeometry | None) -> str:
        if geometry is None:
            return ""
        simple = geometry.simplify(step)
        rings = [
            ring
            for polygon in shapely.get_parts(simple)
            for ring in (polygon.exterior, *polygon.interiors)
        ]
        return "".join(_ring(place(*shapely.get_coordinates(r).T)) for r in rings)

    marks = []
    whole = zip(
        shapes.mascon_id, shapes.footprint, shapes.land, shapes.ice, shapes.selected, strict=True
    )
    for number, footprint, land, ice, selected in whole:
        x, y, room = _inner_circle(footprint if ice.is_empty else ice)
        centre = place([x], [y])[0]
        kind = "mascon" if selected else "mascon unselected"
        marks.append(
            f'<g class="{kind}" role="option" id="mascon-{number}" data-id="{number}" '
            f'aria-selected="false" aria-label="Mascon {number}" tabindex="-1">'
            f'<path class="land" d="{path(land)}"/><path class="ice" d="{path(ice)}"/>'
            f'<path class="footprint" d="{path(footprint)}"/>'
            f'<text x="{centre[0]}" y="{centre[1]}" data-room="{round(room / step)}"></text></g>'
        )
    triangles = "".join(
        f'<path class="lake" data-lake="{int(lake)}" d="M{x} {y - 9}l9 15h-18z"/>'
        for lake, (x, y) in zip(
            candidates["lake_id"], place(candidates["x_m"], candidates["y_m"]), strict=True
        )
    )
    return (
        f'<svg id="map" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">'
        '<defs><pattern id="null" width="14" height="14" patternUnits="userSpaceOnUse" '
        'patternTransform="rotate(45)"><rect width="14" height="14" fill="#e2e2e2"/>'
        '<rect width="5" height="14" fill="#a3a3a3"/></pattern></defs>'
        f'<rect class="sea" width="{width}" height="{height}"/>'
        f'<path class="ground" d="{path(base.land)}"/><path class="sheet" d="{path(base.ice)}"/>'
        f'{_graticule(base, place)}<g id="mascons" role="listbox" '
        f'aria-label="Mascons of {html.escape(base.title)}">{"".join(marks)}</g>'
        f'<g aria-hidden="true"><path class="outline" d="{path(base.ice)}"/>'
        f'<g id="dots"></g>{triangles}<path id="focus-ring" d=""/><path id="selection" d=""/></g>'
        "</svg>"
    )


def _inner_circle(geometry: BaseGeometry) -> tuple[float, float, float]:
    """Return centre and radius of the largest circle in a geometry's largest part (m)."""
    largest = max(shapely.get_parts(geometry), key=lambda part: part.area)
    circle = shapely.maximum_inscribed_circle(largest, tolerance=np.sqrt(largest.area) / 30)
    x, y = shapely.get_coordinates(circle)[0]
    return float(x), float(y), float(shapely.length(circle))


def _ring(points: np.ndarray) -> str:
    """Return a closed ring as a path of relative steps; one smaller than a step is nothing."""
    moves = np.diff(points, axis=0)
    moves = moves[(moves != 0).any(axis=1)][:-1]
    if len(moves) < 2:
        return ""
    steps = "".join(f"{x} {y}" if i == 0 else f" {x} {y}" for i, (x, y) in enumerate(moves))
    return f"M{points[0][0]} {points[0][1]}l{steps}z".replace(" -", "-")


def _graticule(base: BaseMap, place: Any) -> str:
    """Return the lines and labels that figures have: graticule and scale bar."""
    figure = style.new_figure(4.0)
    axes = figure.add_subplot()
    style.draw_base(axes, base)
    x_min, y_min, x_max, y_max = (v / 1e3 for v in base.extent)
    width, height = place(x_max * 1e3, y_min * 1e3)[0]
    parts = []
    for line in axes.lines:
        scale_bar = line.get_gid() == "scale_bar"
        x, y = (np.asarray(v, dtype=float) for v in line.get_data())
        inside = (x >= x_min) & (x <= x_max) & (y >= y_min) & (y <= y_max)
        runs = np.split(np.arange(x.size), np.flatnonzero(np.diff(inside)) + 1)
        for run in (r for r in runs if inside[r[0]] and r.size > 1):
            points = place(x[run] * 1e3, y[run] * 1e3)
            d = "M" + "L".join(f"{a} {b}" for a, b in points)
            parts.append(f'<path class="{"scale" if scale_bar else "graticule"}" d="{d}"/>')
    for text in axes.texts:
        point = np.asarray(getattr(text, "xy", text.get_position()), dtype=float)
        a, b = place(*(np.atleast_1d(v * 1e3) for v in point))[0]
        a = min(max(a, LABEL_MARGIN), width - LABEL_MARGIN)
        b = min(max(b, LABEL_MARGIN // 2), height - LABEL_MARGIN // 2)
        label = html.escape(text.get_text())
        parts.append(f'<text class="degrees" x="{a}" y="{b}">{label}</text>')
    return f'<g aria-hidden="true">{"".join(parts)}</g>'
