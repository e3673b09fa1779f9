"""What the dashboard shows, as plain values: layers of the map, series by mascon, tables.

Numbers stay as they stand in the tables; what is missing is None, never zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.colors import Colormap, Normalize, to_hex

from cryofuse.calendar import month_range
from cryofuse.products import style
from cryofuse.products.figures_maps import best_model, mascon_scores, regime_colours

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
#: Said of a mascon without a score.
NOT_SCORED = "no held-out prediction to score"
#: Colours of a palette; more cannot be told apart.
PALETTE_STEPS = 65


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
    coverage: float,
    unit: str,
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
    coverage
        Nominal coverage of the predictions' intervals.
    unit
        What the footprints are: mascon or basin.

    Returns
    -------
    dict
        Keys title, unit, months, coverage, inside (how many of GRACE's values the intervals hold),
        gravimetry (whether a month has any), mascons, series, has_gravimetry, reasons, layers,
        palettes, colours, sources and tables; numbers unrounded, missing ones None.
    """
    frame = mascons.sort_values("mascon_id")
    ids = [int(i) for i in frame["mascon_id"]]
    times = pd.DatetimeIndex(month_range(*months))
    layers = [
        *_elevation_layers(fusion, product, ids, unit),
        *_mass_layers(product, unit),
        *_skill_layers(scores, ids, unit),
        *_explained_layers(explained, ids),
        *_coupling_layers(coupling, ids, fdr),
        *_regime_layers(regimes, centroids, ids, unit),
        *_season_layers(case_study, ids),
    ]
    candidates = lakes[lakes["status"] == "candidate"]
    return {
        "title": title,
        "unit": unit,
        "months": [f"{month:%Y-%m}" for month in times],
        "coverage": coverage,
        "inside": {kind: _inside(product, kind) for kind in ("change", "mass")},
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
        "has_gravimetry": _grid(product, "has_gravimetry", ids, times),
        "reasons": _reasons(product, ids, times),
        "layers": layers,
        "palettes": {
            "diverging": _hexes(style.DIVERGING),
            "diverging_reversed": _hexes(style.DIVERGING.reversed()),
        },
        "colours": {
            "elevation": style.SOURCE_COLOURS["altimetry"],
            "observed": style.SOURCE_COLOURS["gravity"],
            "predicted": style.SOURCE_COLOURS["predicted"],
        },
        "sources": _sources(totals),
        "tables": {
            "totals": _table(totals, TOTALS_COLUMNS),
            "sea_level": _table(sea_level, [str(c) for c in sea_level.columns if c != "reason"]),
            "lakes": _table(candidates, LAKES_COLUMNS),
        },
    }


def _value(value: Any) -> Any:
    """Return a value of a table as JSON holds it; every kind of null is None."""
    if isinstance(value, np.generic) and not isinstance(value, np.datetime64):
        value = value.item()
    if pd.isna(value):
        return None
    return f"{value:%Y-%m}" if isinstance(value, pd.Timestamp) else value


def _table(frame: pd.DataFrame, columns: Sequence[str]) -> dict[str, Any]:
    rows = frame[list(columns)].astype(object).to_numpy().tolist()
    return {"columns": list(columns), "rows": [[_value(v) for v in row] for row in rows]}


def _hexes(cmap: Colormap) -> list[str]:
    return [to_hex(colour) for colour in cmap(np.linspace(0, 1, PALETTE_STEPS))]


def _wide(product: pd.DataFrame, column: str, ids: list[int], times: pd.Index) -> Any:
    """Return a column as values by mascon and month, as objects."""
    cells = pd.MultiIndex.from_product([ids, times])
    known = product.set_index(["mascon_id", "month"])[column].reindex(cells)
    return known.astype(object).to_numpy().reshape(len(ids), len(times))


def _grid(product: pd.DataFrame, column: str, ids: list[int], times: pd.Index) -> list[Any]:
    """Return a column as a list per mascon with a value per month."""
    return [[_value(v) for v in row] for row in _wide(product, column, ids, times)]


def _gravimetry(product: pd.DataFrame, times: pd.Index) -> list[bool]:
    here = product.groupby("month")["has_gravimetry"].any().reindex(times, fill_value=False)
    return [bool(v) for v in here]


def _inside(product: pd.DataFrame, kind: str) -> dict[str, int]:
    """Return how many observed values have an interval, and how many lie in theirs."""
    names = [f"observed_{kind}_gt", f"predicted_{kind}_lower_gt", f"predicted_{kind}_upper_gt"]
    observed, lower, upper = product[names].dropna().to_numpy(dtype=float).T
    return {"n": int(observed.size), "held": int(((lower <= observed) & (observed <= upper)).sum())}


def _sources(totals: pd.DataFrame) -> dict[str, dict[str, str]]:
    """Return name and colour of each source of totals, those of the figures."""
    first = totals.drop_duplicates("source")
    densities = dict(zip(first["source"], first["density_kg_m3"].astype(float), strict=True))
    colours = style.source_colours(list(densities))
    return {
        source: {"name": style.source_name(source, density), "colour": colours[source]}
        for source, density in densities.items()
    }


def _reasons(product: pd.DataFrame, ids: list[int], times: pd.Index) -> dict[str, Any]:
    """Return why predictions are missing: the texts, and which one holds by mascon and month."""
    texts = sorted(product["reason"].dropna().unique())
    number = {text: index for index, text in enumerate(texts)}
    wide = _wide(product, "reason", ids, times)
    return {"texts": texts, "index": [[number.get(v) for v in row] for row in wide]}


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
    fusion: pd.DataFrame, product: pd.DataFrame, ids: list[int], unit: str
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
            values=_by_id(dict(zip(rates.index, rates, strict=True)), ids),
            reasons=_by_id(dict(zip(reasons.index, reasons, strict=True)), ids),
            note=f"Mean fitted rate over the {unit}'s ice; negative is thinning.",
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
            note=f"Mean elevation change over the {unit}'s ice against the reference date.",
        ),
    ]


def _mass_layers(product: pd.DataFrame, unit: str) -> list[dict[str, Any]]:
    both = pd.concat([product["observed_change_gt"], product["predicted_change_gt"]])
    norm = style.symmetric_norm(both)
    titles = {
        "observed": (
            "Observed mass change of the month (GRACE)",
            "No value in months without GRACE, nor in the first month after them.",
        ),
        "predicted": (
            "Predicted mass change of the month",
            f"From elevation, by a model fitted without this {unit}, also in months without GRACE.",
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


def _skill_layers(scores: pd.DataFrame, ids: list[int], unit: str) -> list[dict[str, Any]]:
    layers = []
    for split in ("leave_mascon_out", "forward"):
        model = best_model(scores, split, "change")
        values = mascon_scores(scores, model, split, "change", "r2") if model else {}
        rows = scores[(scores["split"] == split) & (scores["target"] == "change")]
        why = NOT_SCORED if model else style.first_reason(rows["reason"], default=NOT_SCORED)
        by = f"Model {model.replace('_', ' ')}, the best of this split. " if model else ""
        layers.append(
            _layer(
                f"skill_{split}",
                "Skill",
                f"Skill: {style.split_name(split, unit)}",
                "",
                _share_norm(),
                symbol="R²",
                palette="diverging_reversed",
                column="r2",
                values=_by_id(values, ids),
                reasons=[why] * len(ids),
                note=f"R² of the held-out monthly mass change. {by}Below 0: worse than the "
                f"{unit}'s own mean.",
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
            "",
            _share_norm(),
            symbol="share",
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
    for treatment, name in style.TREATMENT_NAMES.items():
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
                "",
                _share_norm(),
                symbol="r",
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
    regimes: pd.DataFrame, centroids: pd.DataFrame, ids: list[int], unit: str
) -> list[dict[str, Any]]:
    known = centroids.dropna(subset=["regime"])
    # The colours of the figure: of the names on both levels.
    colours = regime_colours(known.groupby("regime_name")["rate_m_yr"].mean())
    mine = known[known["level"] == "mascons"].sort_values("regime")
    classes = [
        {"value": int(regime), "label": str(name), "colour": to_hex(colours[name])}
        for regime, name in zip(mine["regime"].astype(int), mine["regime_name"], strict=True)
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
            note=f"K-Means on the {unit}'s mean metrics; 0 thins fastest.",
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
        bounds = mine[["mascon_id", "predicted_lower_gt", "predicted_upper_gt"]].dropna()
        ranges = {
            int(number): f"{lower:.1f} to {upper:.1f} Gt"
            for number, lower, upper in bounds.to_numpy(dtype=float)
        }
        for column, name, unit, norm in kinds:
            texts = _by_id(ranges, ids) if column == "predicted_gt" else None
            layers.append(
                _layer(
                    f"season_{year}_{column}",
                    "Melt season",
                    f"Melt season {year}: {name}",
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
