"""The calls into cryofuse: its jobs as a run starts them, and the few functions measured alone.

Everything measured goes through here, so that a changed interface is followed in one place. Jobs
are the workflow's own scripts, handed what Snakemake would hand them.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable
from functools import cache
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.measure import ROOT
from cryofuse.atl06.tiles import write_by_tile
from cryofuse.config import Config, ElevationSettings, PeriodSettings, RegionSettings
from cryofuse.geo import unproject

#: The configuration's defaults, as plain values.
DEFAULTS = Config().model_dump(mode="json")
#: What a job may take (MB); where it has workers they share it.
MEMORY_MB = 4000


class Files(list):
    """What Snakemake hands to a script: values in order, some of them by name."""

    def __init__(self, **named: str | list[str]) -> None:
        for name, value in named.items():
            setattr(self, name, value)
            self.extend([value] if isinstance(value, str) else value)


class Wildcards(SimpleNamespace):
    """A job's wildcards."""

    def items(self) -> Iterable[tuple[str, str]]:
        """Return names and values."""
        return vars(self).items()


@cache
def script(name: str) -> ModuleType:
    """Return a script of the workflow as a module."""
    path = ROOT / "workflow" / "scripts" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def run_job(
    name: str,
    files: dict[str, Any],
    output: dict[str, str],
    params: dict[str, Any],
    wildcards: dict[str, str],
    threads: int = 1,
) -> None:
    """Run a rule's script as Snakemake would."""
    script(name).main(
        SimpleNamespace(
            rule=name,
            input=Files(**files),
            output=Files(**output),
            params=SimpleNamespace(**params),
            wildcards=Wildcards(**wildcards),
            log=[None],
            config={"source": "synthetic"},
            threads=threads,
            resources=SimpleNamespace(mem_mb=MEMORY_MB, runtime=60),
        )
    )


def box_region(box: Iterable[float], crs: str) -> dict[str, Any]:
    """Return the settings of a region whose ice fills a box (x_min, y_min, x_max, y_max; m)."""
    x_min, y_min, x_max, y_max = box
    longitude, latitude = unproject(
        np.array([x_min, x_max, x_max, x_min, x_min]),
        np.array([y_min, y_min, y_max, y_max, y_min]),
        crs,
    )
    ring = np.column_stack([longitude, latitude]).tolist()
    outline = {"type": "Polygon", "coordinates": [ring]}
    region = RegionSettings(title="Benchmark", crs=crs, outline=outline)
    return region.model_dump(mode="json")


def write_segments(tables: Iterable[pa.Table], path: str, tile_m: float) -> None:
    """Write segments as subset and filter jobs do."""
    write_by_tile(tables, path, tile_m)


def subset_job(
    manifest: str, segments: str, ledger: str, region: dict[str, Any], period: str, tile_m: float
) -> None:
    """Run the job that cuts the granules of a manifest to a region."""
    run_job(
        "subset_granules",
        {"manifest": manifest},
        {"segments": segments, "ledger": ledger},
        {
            "altimetry": DEFAULTS["altimetry"],
            "elevation": {"tile_m": tile_m},
            "filters": {"max_unreadable_share": DEFAULTS["filters"]["max_unreadable_share"]},
            "period": DEFAULTS["period"],
            "region": region,
        },
        {"period": period},
    )


def filter_job(
    subset: str,
    subset_ledger: str,
    segments: str,
    ledger: str,
    region: dict[str, Any],
    period: str,
    tile_m: float,
) -> None:
    """Run the job that filters a period's segments."""
    run_job(
        "filter_segments",
        {"segments": subset, "ledger": subset_ledger},
        {"segments": segments, "ledger": ledger},
        {"elevation": {"tile_m": tile_m}, "filters": DEFAULTS["filters"], "region": region},
        {"period": period},
    )


def tile_job(
    segments: list[str],
    tile: str,
    folder: str,
    region: dict[str, Any],
    period: dict[str, str],
    elevation: dict[str, Any],
    threads: int = 1,
) -> int:
    """Run the job that fits a tile's nodes; return how many nodes it has.

    Parameters
    ----------
    elevation
        Keys of ``elevation`` that differ from the defaults.
    """
    import pyarrow.parquet as pq

    names = ("nodes", "node_months", "causal", "checks")
    output = {name: f"{folder}/{name}-{tile}.parquet" for name in names}
    run_job(
        "fit_nodes",
        {"segments": segments},
        output,
        {
            "elevation": DEFAULTS["elevation"] | elevation,
            "fusion": {"causal_min_years": DEFAULTS["fusion"]["causal_min_years"]},
            "period": DEFAULTS["period"] | period,
            "region": region,
        },
        {"tile": tile},
        threads,
    )
    return pq.read_metadata(output["nodes"]).num_rows


def node_fits(
    segments: dict[str, np.ndarray],
    node_x_m: np.ndarray,
    node_y_m: np.ndarray,
    radius_m: float,
    period: dict[str, str],
    *,
    causal: bool,
    threads: int = 1,
) -> Any:
    """Fit nodes to segments in memory, with or without causal vintages.

    Parameters
    ----------
    segments
        Arrays x_m, y_m, time, height_m, sigma_m and pass_id.
    """
    from cryofuse.calendar import month_range
    from cryofuse.elevation.anomalies import fit_months
    from cryofuse.elevation.surface import sort_segments

    months = PeriodSettings.model_validate(DEFAULTS["period"] | period)
    return fit_months(
        sort_segments(**segments),
        node_x_m,
        node_y_m,
        np.full(node_x_m.size, radius_m),
        ElevationSettings(search_radius_m=max(radius_m, 500.0)),
        month_range(months.start, months.end),
        causal_min_years=DEFAULTS["fusion"]["causal_min_years"] if causal else None,
        threads=threads,
    )


def fit_arrays(tables: Iterable[pa.Table]) -> dict[str, np.ndarray]:
    """Return segments as the arrays that :func:`node_fits` takes."""
    from cryofuse.elevation.tiles import segment_sigma

    table = pa.concat_tables(tables).unify_dictionaries()
    plain = {
        name: table.column(name).to_numpy()
        for name in ("x_m", "y_m", "time", "height_m", "height_sigma_m", "slope_along")
    }
    return {
        "x_m": plain["x_m"],
        "y_m": plain["y_m"],
        "time": plain["time"],
        "height_m": plain["height_m"],
        "sigma_m": segment_sigma(plain["height_sigma_m"], plain["slope_along"]),
        "pass_id": table.column("rgt").to_numpy().astype(np.int32) * 1000
        + table.column("cycle").to_numpy(),
    }
