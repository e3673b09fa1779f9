"""The published product: mass change by mascon and month as NetCDF and GeoPackage.

NetCDF follows the CF conventions 1.11 (https://cfconventions.org) and the attribute convention for
data discovery 1.3. Footprints are polygons of any number of vertices, parts and holes (blocks of
cells, hexagons, drainage basins), which cell bounds, a fixed number of vertices a cell, cannot
hold: they are a geometry container (CF, section 7.5), nodes on WGS84. Nothing in a file tells when
it was made, so that the same tables make the same bytes.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import shapely

from cryofuse.calendar import add_months, month_middle
from cryofuse.learning.months import NO_ALTIMETRY, NO_CAUSAL_FIT, TARGETS
from cryofuse.mascons.footprints import project_footprints
from cryofuse.products.totals import fit_trend
from cryofuse.tables import written

if TYPE_CHECKING:
    import geopandas
    import xarray

#: One gigatonne over one square kilometre as kg/m², which is millimetres of water.
KG_M2_PER_GT_KM2 = 1e6
#: Time axis of the file.
TIME_UNITS = "days since 2000-01-01 00:00:00"
#: Bits of the variable ``status``.
STATUS = {
    "no_gravimetry": 1,
    "no_observed_change": 2,
    "no_altimetry": 4,
    "no_predicted_change": 8,
    "no_predicted_mass": 16,
    "no_interval": 32,
    "earlier_altimetry_only": 64,
    "no_causal_elevation": 128,
}
#: CF's own name of a mass whose zero is arbitrary.
_MASS_NAME, _AMOUNT_NAME = "change_in_land_ice_mass", "change_in_land_ice_amount"
_ZERO = "counted from the mascon's mean over the first twelve months of the record with a solution"
_LABELS = {"observed": "from satellite gravimetry", "predicted": "predicted from elevation change"}
_MEANS = {"change": "mass change since the month before", "mass": "mass anomaly"}
#: A layer of months with their mascons' polygons, and its lines in the tables of the format.
_VIEW = (
    "CREATE VIEW mascon_months AS SELECT months.fid AS OGC_FID, mascons.geom, {columns} "
    "FROM months JOIN mascons ON months.mascon_id = mascons.mascon_id",
    "INSERT INTO gpkg_contents (table_name, identifier, data_type, srs_id, min_x, min_y, max_x, "
    "max_y) SELECT 'mascon_months', 'mascon_months', data_type, srs_id, min_x, min_y, max_x, max_y "
    "FROM gpkg_contents WHERE table_name = 'mascons'",
    "INSERT INTO gpkg_geometry_columns (table_name, column_name, geometry_type_name, srs_id, z, m) "
    "SELECT 'mascon_months', column_name, geometry_type_name, srs_id, z, m "
    "FROM gpkg_geometry_columns WHERE table_name = 'mascons'",
)
#: Instant that the GeoPackage says it was changed at: no time of today in a product.
_NO_TIME = "2000-01-01T00:00:00.000Z"


def build_dataset(
    months: pd.DataFrame, mascons: geopandas.GeoDataFrame, attributes: dict[str, Any]
) -> xarray.Dataset:
    """Return the product as a dataset of mascons and months.

    Parameters
    ----------
    months
        Table PRODUCT_MONTHS.
    mascons
        Table MASCONS with geometry; those of ``months`` are taken.
    attributes
        Global attributes, of :func:`describe_product`.

    Returns
    -------
    xarray.Dataset
        Dimensions mascon and time. Masses in Gt (gigatonne, 1e12 kg), amounts in kg m-2 over the
        mascon's land (millimetres of water); NaN where there is no value, ``status`` says why.
    """
    import xarray

    ids = np.unique(months["mascon_id"])
    places = mascons.set_index("mascon_id").loc[ids]
    stamps = pd.DatetimeIndex(np.unique(months["month"])).as_unit("us")
    laid = months.set_index(["mascon_id", "month"]).reindex(
        pd.MultiIndex.from_product([ids, stamps], names=["mascon_id", "month"])
    )

    def grid(column: str) -> np.ndarray:
        return laid[column].to_numpy().reshape(len(ids), len(stamps))

    first = stamps.to_numpy()
    bounds = np.column_stack([first, add_months(first, 1)])
    land = places["land_area_km2"].to_numpy(float)
    variables: dict[str, tuple] = {
        "time_bounds": (("time", "bound"), bounds, {}),
        "crs": ((), np.int32(0), _grid_mapping()),
        **_geometry(places["geometry"].to_numpy()),
        "land_area": ("mascon", land, _about("area of the mascon's land", "km2")),
        "ice_area": (
            "mascon",
            places["ice_area_km2"].to_numpy(float),
            _about("area of the mascon's ice", "km2"),
        ),
    }
    covered = _measure_coverage(months)
    for kind in ("predicted", "observed"):
        for name in TARGETS.values():
            variables |= _masses(kind, name, grid, land, covered[name])
    variables["elevation_change"] = (
        ("mascon", "time"),
        grid("dh_m").astype(float),
        _about(
            "mean surface elevation change of the mascon's ice, from all passes of the record",
            "m",
            ancillary_variables="elevation_change_uncertainty status",
        ),
    )
    variables["elevation_change_uncertainty"] = (
        ("mascon", "time"),
        grid("dh_sigma_m").astype(float),
        _about("standard uncertainty of the elevation change", "m"),
    )
    variables["status"] = (("mascon", "time"), _status(laid).reshape(len(ids), -1), _status_about())
    for name, (dims, _, about) in variables.items():
        if dims == ("mascon", "time") or name in ("land_area", "ice_area"):
            about |= {"geometry": "footprint", "grid_mapping": "crs"}
        if dims:
            about["coverage_content_type"] = _content_type(name)
    dataset = xarray.Dataset(
        variables,
        coords={
            "mascon_id": (
                "mascon",
                ids.astype(np.int32),
                {"long_name": "number of the mascon in its product", "cf_role": "timeseries_id"},
            ),
            "lat": (
                "mascon",
                places["latitude"].to_numpy(float),
                _about(
                    "latitude of the mascon's centre", "degrees_north", "latitude", nodes="node_lat"
                ),
            ),
            "lon": (
                "mascon",
                places["longitude"].to_numpy(float),
                _about(
                    "longitude of the mascon's centre",
                    "degrees_east",
                    "longitude",
                    nodes="node_lon",
                ),
            ),
            "time": (
                "time",
                month_middle(first),
                {
                    "standard_name": "time",
                    "long_name": "middle of the month",
                    "axis": "T",
                    "bounds": "time_bounds",
                    "units_metadata": "leap_seconds: none",
                },
            ),
        },
        attrs=attributes
        | {f"interval_coverage_measured_{name}": told for name, told in covered.items()}
        | _extent(places, bounds),
    )
    return dataset


def _about(
    long_name: str, units: str, standard_name: str | None = None, **more: str
) -> dict[str, str]:
    """Return the attributes of a variable."""
    named = {} if standard_name is None else {"standard_name": standard_name}
    return {"long_name": long_name, **named, "units": units, **more}


def _content_type(name: str) -> str:
    """Return what a variable holds, in the words of ISO 19115-1."""
    if name == "status" or name.endswith(("_lower", "_upper", "_uncertainty")):
        return "qualityInformation"
    if name.startswith("predicted_"):
        return "modelResult"
    if name.startswith(("observed_", "elevation_")):
        return "physicalMeasurement"
    return "auxiliaryInformation"


def _measure_coverage(months: pd.DataFrame) -> dict[str, str]:
    """Return by target how many observed values lie in their intervals, in words."""
    told = {}
    for name in TARGETS.values():
        observed = months[f"observed_{name}_gt"]
        lower, upper = months[f"predicted_{name}_lower_gt"], months[f"predicted_{name}_upper_gt"]
        known = observed.notna() & lower.notna()
        inside = observed.between(lower, upper)[known]
        told[name] = (
            f"{100 * inside.mean():.1f} % of {len(inside)} observed values lie in the interval"
            if len(inside)
            else "not measured: no month has an interval and an observed value"
        )
    return told


def _masses(kind: str, name: str, grid: Any, land: np.ndarray, covered: str) -> dict[str, tuple]:
    """Return one mass with what tells its uncertainty, and the same as water on the land."""
    whole = f"{kind}_{name}"
    spread = ["lower", "upper"] if kind == "predicted" else ["uncertainty"]
    columns = {"lower": "_lower", "upper": "_upper", "uncertainty": "_sigma"}
    words = {
        "lower": "lower end of the conformal interval of the",
        "upper": "upper end of the conformal interval of the",
        "uncertainty": "standard uncertainty of the",
    }
    title = f"{_MEANS[name]} {_LABELS[kind]}"
    level = name == "mass"
    standard = _MASS_NAME if level else None
    comment = {"comment": _ZERO} if level else {}
    dims = ("mascon", "time")
    values = grid(f"{whole}_gt").astype(float)
    ancillary = {"ancillary_variables": " ".join([*(f"{whole}_{s}" for s in spread), "status"])}
    found: dict[str, tuple] = {
        whole: (dims, values, _about(title, "Gt", standard, **comment, **ancillary))
    }
    for ending in spread:
        modified = f"{_MASS_NAME} standard_error" if level and ending == "uncertainty" else None
        found[f"{whole}_{ending}"] = (
            dims,
            grid(f"{whole}{columns[ending]}_gt").astype(float),
            _about(
                f"{words[ending]} {title}",
                "Gt",
                modified,
                **({"comment": covered} if kind == "predicted" else {}),
            ),
        )
    amount = values * KG_M2_PER_GT_KM2 / land[:, np.newaxis]
    found[f"{whole}_water_equivalent"] = (
        dims,
        amount,
        _about(
            f"{title}, spread over the mascon's land (millimetres of water)",
            "kg m-2",
            _AMOUNT_NAME if level else None,
            **comment,
            ancillary_variables="status",
        ),
    )
    return found


def _status(laid: pd.DataFrame) -> np.ndarray:
    """Return the bits of every mascon month."""
    bounds = [f"predicted_{n}_{end}_gt" for n in TARGETS.values() for end in ("lower", "upper")]
    predicted = [f"predicted_{n}_gt" for n in TARGETS.values() for _ in ("lower", "upper")]
    unbounded = laid[bounds].isna().to_numpy() & laid[predicted].notna().to_numpy()
    held = {
        "no_gravimetry": ~laid["has_gravimetry"].to_numpy(bool),
        "no_observed_change": laid["observed_change_gt"].isna().to_numpy(),
        "no_altimetry": (laid["reason"] == NO_ALTIMETRY).to_numpy(),
        "no_predicted_change": laid["predicted_change_gt"].isna().to_numpy(),
        "no_predicted_mass": laid["predicted_mass_gt"].isna().to_numpy(),
        "no_interval": unbounded.any(axis=1),
        "earlier_altimetry_only": laid["dh_m"].isna().to_numpy()
        & laid[predicted].notna().to_numpy().any(axis=1),
        "no_causal_elevation": (laid["reason"] == NO_CAUSAL_FIT).to_numpy(),
    }
    return sum(np.int16(bit) * held[name].astype(np.int16) for name, bit in STATUS.items())


def _status_about() -> dict[str, Any]:
    return {
        "long_name": "why values are missing",
        "standard_name": "status_flag",
        "flag_masks": np.array(list(STATUS.values()), np.int16),
        "flag_meanings": " ".join(STATUS),
        "comment": f"no_altimetry: {NO_ALTIMETRY}; no_causal_elevation: {NO_CAUSAL_FIT}, and "
        "nothing later may predict it; "
        "earlier_altimetry_only: the month itself has none, and is predicted from months before; "
        "no_predicted_change or no_predicted_mass without any of these: the model is not "
        "applicable, the log of the run says why",
    }


def _grid_mapping() -> dict[str, Any]:
    """Return WGS84 as CF names it."""
    from pyproj import CRS

    return CRS.from_epsg(4326).to_cf()


def _geometry(footprints: Iterable[Any]) -> dict[str, tuple]:
    """Return footprints as CF's geometry container: rings one after another.

    Outer rings run anticlockwise, holes clockwise, and every ring closes.
    """
    node_count, part_nodes, holes, nodes = [], [], [], []
    for footprint in footprints:
        count = 0
        for polygon in shapely.get_parts(footprint):
            turned = shapely.orient_polygons(polygon)
            rings = [shapely.get_coordinates(ring) for ring in shapely.get_rings(turned)]
            nodes += rings
            part_nodes += [len(ring) for ring in rings]
            # The first ring is the outer one.
            holes += [int(k > 0) for k in range(len(rings))]
            count += sum(len(ring) for ring in rings)
        node_count.append(count)
    xy = np.concatenate(nodes)
    container = {
        "geometry_type": "polygon",
        "node_count": "node_count",
        "part_node_count": "part_node_count",
        "interior_ring": "interior_ring",
        "node_coordinates": "node_lon node_lat",
        "grid_mapping": "crs",
    }
    return {
        "footprint": ((), np.int32(0), container),
        "node_count": (
            "mascon",
            np.array(node_count, np.int32),
            _about("number of vertices of the mascon's footprint", "1"),
        ),
        "part_node_count": (
            "part",
            np.array(part_nodes, np.int32),
            _about("number of vertices of a ring", "1"),
        ),
        "interior_ring": (
            "part",
            np.array(holes, np.int32),
            _about("1 for a ring that is a hole, else 0", "1"),
        ),
        "node_lon": (
            "node",
            xy[:, 0],
            _about("longitude of a vertex", "degrees_east", axis="X"),
        ),
        "node_lat": (
            "node",
            xy[:, 1],
            _about("latitude of a vertex", "degrees_north", axis="Y"),
        ),
    }


def _extent(places: geopandas.GeoDataFrame, bounds: np.ndarray) -> dict[str, Any]:
    west, south, east, north = shapely.total_bounds(places["geometry"].to_numpy())
    return {
        "geospatial_lat_min": south,
        "geospatial_lat_max": north,
        "geospatial_lat_units": "degrees_north",
        "geospatial_lon_min": west,
        "geospatial_lon_max": east,
        "geospatial_lon_units": "degrees_east",
        "time_coverage_start": f"{bounds[0, 0].astype('datetime64[s]')}Z",
        "time_coverage_end": f"{bounds[-1, 1].astype('datetime64[s]')}Z",
        "time_coverage_duration": f"P{len(bounds)}M",
        "time_coverage_resolution": "P1M",
    }


def describe_product(
    title: str,
    months: dict[str, Any],
    gravimetry: dict[str, Any],
    altimetry: str,
    releases: Iterable[str],
) -> dict[str, Any]:
    """Return the global attributes: what the file is, of what, made how, to be cited how.

    Parameters
    ----------
    title
        Name of the region.
    months
        Provenance of the table ``product/months``: code, configuration, seed, models.
    gravimetry
        Entry ``gravimetry`` of the provenance of ``gravimetry/mascons``: product and release.
    altimetry
        Key of the altimetry product.
    releases
        Its releases in the run.
    """
    planted = months.get("source") == "synthetic"
    models = {
        target: (
            f"{told['model']} (root mean square error {told['rmse_cm']:.3g} cm of water on mascons "
            "left out)"
            if "model" in told
            else f"none: {told['reason']}"
        )
        for target, told in months["models"].items()
    }
    read = f"{altimetry.upper()} release {', '.join(sorted(set(releases))) or 'unknown'}"
    mascons = f"{gravimetry['product'].upper()} mascons release {gravimetry['release']}"
    kind = "SYNTHETIC WORLD, no observation. " if planted else ""
    return {
        "Conventions": "CF-1.11, ACDD-1.3",
        "featureType": "timeSeries",
        "title": f"{title}: mass change of mascons by month, predicted from elevation change",
        "summary": (
            f"{kind}Monthly change and anomaly of mass for each mascon, predicted from satellite "
            "altimetry by models that never saw the mascon's own gravimetry, with conformal "
            f"intervals of nominally {100 * months['coverage']:g} %, beside what gravimetry "
            "observed. Months without gravimetry are predicted as well."
        ),
        "keywords": "ice sheet, mass balance, ICESat-2, GRACE-FO, mascon, machine learning",
        "source": f"{kind}{read}; {mascons}",
        "processing_level": "Level 4",
        "model_change": models["change"],
        "model_mass": models["cumulative"],
        "history": (
            f"cryofuse {months['version']} (code {months['code']}, configuration "
            f"{months['config']}, seed {months['seed']}), no time given so that the same input "
            "makes the same bytes"
        ),
        "product_version": f"{months['version']}+{months['config']}",
        "code_version": f"{months['version']} {months['code']}",
        "configuration_digest": months["config"],
        "seed": months["seed"],
        "interval_coverage": months["coverage"],
        "altimetry_product": altimetry,
        "altimetry_release": ", ".join(sorted(set(releases))) or "unknown",
        "gravimetry_product": gravimetry["product"],
        "gravimetry_release": gravimetry["release"],
        "gravimetry_uncertainty": gravimetry.get("sigma", "as the product gives it"),
        "references": "; ".join(text.rstrip(".") for text in months["citations"]),
        "acknowledgement": "Cite the products under references, and cryofuse (CITATION.cff).",
        "license": (
            "cryofuse is under the MIT licence; terms of the input products apply, and who runs "
            "the workflow says under which terms its results are given"
        ),
        "institution": "not stated: written by whoever ran cryofuse",
        "creator_name": "cryofuse",
        "creator_type": "institution",
        "standard_name_vocabulary": "CF Standard Name Table v93",
        "comment": (
            "The anomaly's zero is a mean of the record, not of the gravimetry product. Intervals "
            "are of single mascon months: errors of neighbours and of months go together, so "
            "those of sums do not follow from them."
        ),
    }


def write_netcdf(dataset: xarray.Dataset, path: str | Path) -> None:
    """Write the product as compressed NetCDF-4.

    Parameters
    ----------
    dataset
        Of :func:`build_dataset`.
    path
        File, which appears when it is complete.
    """
    encoding: dict[str, dict[str, Any]] = {}
    for name, variable in dataset.variables.items():
        many = variable.ndim > 0
        chosen: dict[str, Any] = {"zlib": True, "shuffle": True, "complevel": 4} if many else {}
        if name in ("time", "time_bounds"):
            chosen |= {"units": TIME_UNITS, "calendar": "standard", "dtype": "float64"}
        measured = variable.dims == ("mascon", "time") and variable.dtype.kind == "f"
        encoding[str(name)] = chosen | {"_FillValue": np.nan if measured else None}
    with written(path) as temporary:
        dataset.to_netcdf(temporary, format="NETCDF4", engine="netcdf4", encoding=encoding)


def describe_mascons(
    months: pd.DataFrame, mascons: geopandas.GeoDataFrame, crs: str
) -> geopandas.GeoDataFrame:
    """Return one row for each mascon: its polygon, its rates, its latest month and its years.

    Parameters
    ----------
    months
        Table PRODUCT_MONTHS.
    mascons
        Table MASCONS with geometry.
    crs
        The region's CRS, in which the polygons are.

    Returns
    -------
    GeoDataFrame
        Rates are trends with season (:func:`cryofuse.products.totals.fit_trend`), both over the
        months from ``rate_start`` to ``rate_end`` that have either mass; null where there are too
        few. The change of a year is predicted as the sum of its twelve months and observed as
        December's mass less that of the December before; null where a month lacks.
    """
    import geopandas

    years = sorted(months["month"].dt.year.unique())
    places = mascons.set_index("mascon_id")
    rows = []
    for mascon, group in months.groupby("mascon_id", sort=True):
        held = group.sort_values("month", ignore_index=True)
        place = places.loc[mascon]
        row: dict[str, Any] = {"mascon_id": mascon}
        row |= {name: float(place[name]) for name in ("land_area_km2", "ice_area_km2")}
        common = held[held["predicted_mass_gt"].notna() & held["observed_mass_gt"].notna()]
        row["rate_start"] = common["month"].iloc[0].date() if len(common) else None
        row["rate_end"] = common["month"].iloc[-1].date() if len(common) else None
        for kind in ("predicted", "observed"):
            trend = fit_trend(common["month"].to_numpy(), common[f"{kind}_mass_gt"].to_numpy(float))
            row[f"{kind}_rate_gt_yr"] = trend.value
            row[f"{kind}_rate_sigma_gt_yr"] = trend.sigma
        known = held[held["predicted_mass_gt"].notna()]
        last = known.iloc[-1] if len(known) else held.iloc[-1]
        row["latest_month"] = last["month"].date() if len(known) else None
        for name in ("predicted_mass_gt", "predicted_mass_lower_gt", "predicted_mass_upper_gt"):
            row[f"latest_{name}"] = last[name]
        in_december = held[held["month"].dt.month == 12]
        december = in_december.set_index(in_december["month"].dt.year)["observed_mass_gt"]
        for year in years:
            change = held.loc[held["month"].dt.year == year, "predicted_change_gt"]
            whole = len(change) == 12 and change.notna().all()
            row[f"predicted_{year}_gt"] = change.sum() if whole else np.nan
            row[f"observed_{year}_gt"] = december.get(year, np.nan) - december.get(year - 1, np.nan)
        rows.append(row)
    frame = pd.DataFrame(rows)
    footprints = project_footprints(places.loc[frame["mascon_id"], "geometry"].to_numpy(), crs)
    return geopandas.GeoDataFrame(frame, geometry=footprints, crs=crs)


def write_geopackage(
    months: pd.DataFrame, mascons: geopandas.GeoDataFrame, crs: str, path: str | Path
) -> None:
    """Write the product as a GeoPackage that QGIS opens.

    Layer ``mascons`` has a polygon for each mascon, table ``months`` a row for each mascon month,
    and layer ``mascon_months`` is a view of both, so that polygons are stored once: its date
    ``month`` is what the temporal controller of QGIS asks for.

    Parameters
    ----------
    months
        Table PRODUCT_MONTHS.
    mascons
        Table MASCONS with geometry.
    crs
        The region's CRS.
    path
        File, which appears when it is complete.
    """
    import pyogrio

    polygons = describe_mascons(months, mascons, crs)
    rows = months.sort_values(["mascon_id", "month"], ignore_index=True)
    last = add_months(rows["month"].to_numpy(), 1) - np.timedelta64(1, "D")
    rows = rows.assign(month=rows["month"].dt.date, last_day=pd.Series(last).dt.date)
    columns = ", ".join(f"months.{name}" for name in rows.columns)
    with written(path) as temporary, TemporaryDirectory(dir=temporary.parent) as folder:
        draft = Path(folder) / "draft.gpkg"
        # By way of Arrow, which knows dates.
        kept: dict[str, Any] = {"driver": "GPKG", "use_arrow": True}
        pyogrio.write_dataframe(polygons, draft, layer="mascons", **kept)
        pyogrio.write_dataframe(rows, draft, layer="months", append=True, **kept)
        with closing(sqlite3.connect(draft)) as database:
            with database:
                for statement in _VIEW:
                    database.execute(statement.format(columns=columns))
                database.execute("UPDATE gpkg_contents SET last_change = ?", (_NO_TIME,))
            # A copy without traces of the order in which pages were written.
            database.execute("VACUUM INTO ?", (str(temporary),))
