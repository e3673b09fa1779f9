"""Tasks for workers of every kind, and small cases of what the heavy rules do.

Workers import this file: it must be quick to import.
"""

import logging
import os
import signal
import time
import warnings
from pathlib import Path


class SpoiltError(Exception):
    """What a task fails with."""


def square(number):
    """The square of a number, sooner for larger numbers."""
    time.sleep(0.02 / number)
    return number * number, os.getpid()


def shout(number):
    logging.getLogger("cryofuse.case").info("task %d is under way", number)
    warnings.warn("the ice is thin", stacklevel=1)


def spoil(number):
    logging.getLogger("cryofuse.case").warning("this will not end well")
    raise SpoiltError(f"task {number} is spoilt")


def start_slowly(task):
    """Say who has started which task, and take so long that one can be killed in the middle."""
    folder, number = task
    with open(f"{folder}/{number}", "a") as stream:
        stream.write(f"{os.getpid()}\n")
    time.sleep(0.3)
    return number


class Poison:
    """A task that ends whatever works on it."""

    name = "the poisoned one"

    def __call__(self):
        os.kill(os.getpid(), signal.SIGKILL)


def linger(task):
    """Mark that a task is under way, and take longer than anybody waits."""
    Path(task).touch()
    time.sleep(600)


def swallow(task):
    return task() if isinstance(task, Poison) else task


def count_threads(_):
    """Threads that each library would use."""
    import numba
    import pyarrow as pa
    import sklearn.ensemble  # noqa: F401
    import threadpoolctl
    import xgboost  # noqa: F401

    # As every compilation does first.
    numba.config.reload_config()
    found = {
        "numba": numba.config.NUMBA_NUM_THREADS,
        "arrow": pa.cpu_count(),
        "arrow io": pa.io_thread_count(),
    }
    for library in threadpoolctl.threadpool_info():
        found[Path(library["filepath"]).name] = library["num_threads"]
    return found


def memory_limit(_):
    """What Dask stops this worker at (MB)."""
    from distributed import get_worker

    return get_worker().memory_manager.memory_limit / 1e6


def read_heights(path):
    """All heights of a granule."""
    from cryofuse.atl06.granule import read_granule

    return read_granule(path)[0]["height_m"].to_numpy().sum()


def write_granules(folder, passes=24, rows=900):
    """Granules of repeated tracks over a plane that sinks 0.4 m a year, about 70° N 45° W."""
    import h5py
    import numpy as np

    folder.mkdir()
    index = np.arange(rows)
    for number in range(passes):
        cycle, rgt = 1 + number // 3, 1 + number % 3
        days = 91 * (cycle - 1) + rgt
        start = np.datetime64("2019-01-15T00:00:00", "s") + np.timedelta64(86_400 * days, "s")
        stamp = str(start).replace("-", "").replace("T", "").replace(":", "")
        path = folder / f"ATL06_{stamp}_{rgt:04d}{cycle:02d}03_006_01.h5"
        seconds = (start - np.datetime64("2018-01-01", "s")).astype(float) + 0.0028 * index
        with h5py.File(path, "w") as file:
            file["orbit_info/rgt"] = np.array([rgt], "i2")
            file["orbit_info/cycle_number"] = np.array([cycle], "i1")
            for beam, east in (("gt1l", 0.0), ("gt2r", 0.08)):
                noise = np.random.default_rng([number, int(100 * east)]).normal(0, 0.03, rows)
                height = 1800 + 0.002 * index - 0.4 * seconds / 31_556_952 + noise
                for place, values in {
                    "latitude": 69.92 + 1.8e-4 * index,
                    "longitude": np.full(rows, -45.2 + 0.05 * rgt + east),
                    "delta_time": seconds,
                    "segment_id": (600_000 + index).astype("i4"),
                    "h_li": height.astype("f4"),
                    "h_li_sigma": np.full(rows, 0.02, "f4"),
                    "fit_statistics/dh_fit_dx": np.full(rows, 0.0001, "f4"),
                }.items():
                    file.create_dataset(
                        f"{beam}/land_ice_segments/{place}",
                        data=values,
                        chunks=(300,),
                        compression=6,
                    )
    return folder


def chain(granules, folder, run):
    """Granules to segments to the nodes of a tile, with the workers given: every table of it."""
    import pyarrow as pa
    import shapely

    from cryofuse.acquire.local import list_local
    from cryofuse.atl06.granule import Area
    from cryofuse.atl06.ledger import ledger_table
    from cryofuse.atl06.subset import cut_granules
    from cryofuse.atl06.tiles import write_by_tile
    from cryofuse.calendar import period_bounds
    from cryofuse.config import ElevationSettings, FusionSettings, PeriodSettings, RegionSettings
    from cryofuse.elevation.tiles import fit_tile
    from cryofuse.geo import project, tile_name

    tile_m = 20_000.0
    x, y = (float(value) for value in project(-45, 70, "EPSG:3413"))
    area = Area(shapely.box(x - 3e4, y - 3e4, x + 3e4, y + 3e4), "EPSG:3413", tile_m)
    manifest = list_local(granules, period_bounds("2019")[0], period_bounds("2020")[1])
    parts = list(cut_granules(manifest, area, run=run))
    folder.mkdir()
    write_by_tile((table for table, _ in parts), folder / "segments.parquet", tile_m)
    outline = {"west": -47, "south": 69.5, "east": -43, "north": 70.5}
    tile = fit_tile(
        [folder / "segments.parquet"],
        tile_name(x, y, tile_m),
        RegionSettings(title="case", crs="EPSG:3413", outline=outline),
        ElevationSettings(
            node_spacing_m=2000, search_radius_m=2000, tile_m=tile_m, min_span_years=0.5
        ),
        FusionSettings(),
        PeriodSettings(start="2019-01", end="2020-12"),
        run,
    )
    return {
        "segments": pa.concat_tables([table for table, _ in parts]),
        "ledger": ledger_table([row for _, rows in parts for row in rows], "2019"),
        "nodes": pa.Table.from_pandas(tile.fits, preserve_index=False),
        "node months": tile.months,
        "causal": tile.causal,
        "checks": tile.checks,
    }


def learn(run):
    """Scores, predictions, curves and importance of a small table, with the workers given."""
    import numpy as np
    import pandas as pd

    from cryofuse.config import ExplainedSettings, SkillSettings
    from cryofuse.learning.curve import trace_learning
    from cryofuse.learning.importance import rank_features
    from cryofuse.learning.skill import evaluate

    mascons, months = 6, 60
    rng = np.random.default_rng(3)
    k = np.tile(np.arange(mascons), months)
    month = np.arange("2019-01", "2024-01", dtype="datetime64[M]").astype("datetime64[us]")
    driver = rng.normal(size=len(k))
    change = 40 * driver + 3 * rng.normal(size=len(k))
    features = pd.DataFrame(
        {
            "mascon_id": k.astype(np.int32),
            "month": np.repeat(month, mascons),
            "latitude": 62.0 + 3 * (k // 3),
            "longitude": -50.0 + 7 * (k % 3),
            "land_area_km2": 1e5,
            "ice_area_km2": 6e4,
            "ice_fraction": 0.6,
            "target_change_cm": change,
            "target_cumulative_cm": pd.Series(change).groupby(k).cumsum(),
            "dh_m": pd.Series(driver).groupby(k).cumsum(),
            "dh_change_1m_m": driver,
            "season_cos": np.repeat(np.cos(np.arange(months) / 2), mascons),
        }
    )
    settings = SkillSettings.model_validate(
        {
            "models": ["ridge", "xgboost", "forest"],
            "splits": ["forward"],
            "targets": ["change"],
            "trees": 8,
            "candidates": 2,
            "folds": 2,
            "inner_folds": 2,
            "bootstrap_draws": 20,
            "label_permutations": 2,
            "curve_draws": 2,
            "curve_shares": [0.5, 1.0],
        }
    )
    explained = ExplainedSettings(split="forward", permutations=2, seeds=2)
    scores, predictions = evaluate(features, settings, run=run)
    return {
        "scores": scores,
        "predictions": predictions,
        "curves": trace_learning(features, settings, run=run),
        "importance": rank_features(features, explained, settings, run=run),
    }
