"""The dashboard's page: template, style, script and map put together."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Mapping
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from cryofuse.products import style
from cryofuse.products.style import BaseMap, MasconShapes
from cryofuse.products.summary import describe_sea_level

if TYPE_CHECKING:
    import pandas as pd

#: Half the width of a lake's triangle with its outline, on the map (steps).
TRIANGLE_STEPS = 18
#: Frame over the smallest step of a drawn outline: finer than a pixel of any screen.
MAP_STEPS = 1500
#: Steps that labels of the graticule keep from the frame's sides.
LABEL_MARGIN = 50


def render_page(
    data: Mapping[str, Any],
    *,
    base: BaseMap,
    shapes: MasconShapes,
    lakes: pd.DataFrame,
    sea_level: pd.DataFrame,
    answer: str,
    verdict: str,
    synthetic: bool,
    provenance: Mapping[str, Any],
) -> str:
    """Return the page.

    Parameters
    ----------
    data
        What :func:`cryofuse.products.dashboard.data.build_data` returns.
    base, shapes
        Base map and cut mascons, in the order of the data's.
    lakes, sea_level
        Tables ``hydrology/lakes`` and ``applications/sea_level``.
    answer
        The same as ``verdict`` in plain words.
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
    sheet, script = (folder.joinpath(n).read_text("utf-8") for n in ("page.css", "page.js"))
    css = f"{_colours()}{sheet}"
    candidates = lakes[lakes["status"] == "candidate"]
    months, unit = data["months"], data["unit"]
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
        unit=unit,
        unit_title=unit.capitalize(),
        last_month=len(months) - 1,
        world=(
            '<p class="warning">A synthetic world with a known truth: these numbers show the '
            "method, not nature.</p>"
            if synthetic
            else ""
        ),
        answer=html.escape(answer),
        verdict=html.escape(verdict),
        map=draw_map(base, shapes, candidates),
        sea_level=describe_sea_level(sea_level),
        lakes=_lakes_text(len(lakes), len(candidates)),
        lakes_hidden="" if len(candidates) else "hidden",
        provenance=_provenance(provenance),
    )


def _colours() -> str:
    """Return the colours of the figures' maps as variables of the style sheet."""
    colours = {
        "ocean": style.OCEAN,
        "land": style.LAND,
        "ice": style.ICE,
        "edge": style.EDGE,
        "null-face": style.NULL_FACE,
        "null-edge": style.NULL_EDGE,
    }
    return f":root {{ {' '.join(f'--{name}: {value};' for name, value in colours.items())} }}\n"


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
        f"Candidates of active subglacial lakes (triangles on the map): {candidates}. "
        f"Look-alikes left out: {found - candidates}."
    )


def _provenance(values: Mapping[str, Any]) -> str:
    said = {
        "Version": values.get("version"),
        "Code": values.get("code"),
        "Configuration": values.get("config"),
        "Source": values.get("source"),
        "Tables": ", ".join(n for n in values.get("inputs", []) if n.endswith(".parquet")),
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
    unit = shapes.unit
    lakes = shapely.MultiPoint(candidates[["x_m", "y_m"]].to_numpy(dtype=float))
    taken = lakes.buffer(TRIANGLE_STEPS * step)
    whole = zip(
        shapes.mascon_id, shapes.footprint, shapes.land, shapes.ice, shapes.selected, strict=True
    )
    for number, footprint, land, ice, selected in whole:
        x, y, room = style.inner_circle(footprint if ice.is_empty else ice, taken, 0.0)
        centre = place([x], [y])[0]
        kind = "mascon" if selected else "mascon unselected"
        marks.append(
            f'<g class="{kind}" role="option" id="mascon-{number}" data-id="{number}" '
            f'aria-selected="false" aria-label="{unit.capitalize()} {number}" tabindex="-1">'
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
        'patternTransform="rotate(45)"><rect class="null-face" width="14" height="14"/>'
        '<rect class="null-edge" width="5" height="14"/></pattern></defs>'
        f'<rect class="sea" width="{width}" height="{height}"/>'
        f'<path class="ground" d="{path(base.land)}"/><path class="sheet" d="{path(base.ice)}"/>'
        f'{_graticule(base, place)}<g id="mascons" role="listbox" '
        f'aria-label="{unit.capitalize()}s of {html.escape(base.title)}">{"".join(marks)}</g>'
        f'<g aria-hidden="true"><path class="outline" d="{path(base.ice)}"/>'
        f'<g id="dots"></g>{triangles}<path id="focus-ring" d=""/><path id="selection" d=""/></g>'
        "</svg>"
    )


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
