"""An inventory of lakes as an earlier survey of the synthetic world might have made it.

It knows some of the planted lakes, not to the metre, and others where nothing happens, so that
candidates can be compared with it: hits, misses, new ones, and lakes where nobody looked.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
import shapely

from cryofuse.geo import unproject, window_bounds
from cryofuse.tables import written

if TYPE_CHECKING:
    import pandas as pd

    from cryofuse.simulate.world import World

#: How far its lakes lie from the planted ones (m).
SHIFT_M = (1000.0, 2000.0)
#: Every so many planted lakes one is left out: nobody knew it.
LEFT_OUT_EVERY = 2
#: Spacing of the places tried for a lake where nothing happens (m), and their gap to the rim.
_STEP_M = 1000.0
#: Places tried for a lake far from all windows, along each side of the ice's bounds.
_PLACES = 60


def survey_lakes(world: World) -> pd.DataFrame:
    """Return the inventory: planted lakes by name, one at rest in a window, one far away.

    Parameters
    ----------
    world
        The planted truth.

    Returns
    -------
    pandas.DataFrame
        Columns ``name``, ``longitude``, ``latitude`` (degrees) and ``kind``, as
        :func:`cryofuse.hydrology.inventory.read_inventory` takes them.
    """
    import pandas as pd

    rng = np.random.default_rng([world.settings.seed, 1313])
    rows = []
    for lake in world.lake_list:
        distance, angle = rng.uniform(*SHIFT_M), rng.uniform(0, 2 * np.pi)
        if lake.lake_id % LEFT_OUT_EVERY == 0:
            continue
        x, y = lake.x_m + distance * np.cos(angle), lake.y_m + distance * np.sin(angle)
        rows.append((f"planted {lake.lake_id}", x, y, "Active"))
    lakes = np.array([(lake.x_m, lake.y_m) for lake in world.lake_list]).reshape(-1, 2)
    bounds = [window_bounds(window, world.crs) for window in world.elevation.windows]
    inner = [_lay_places(world, shapely.box(*b).buffer(-_STEP_M).bounds, _STEP_M) for b in bounds]
    rest = _farthest(np.concatenate(inner), lakes) if inner else None
    if rest is not None:
        rows.append(("at rest", *rest, "Stable"))
    middles = np.array([((b[0] + b[2]) / 2, (b[1] + b[3]) / 2) for b in bounds]).reshape(-1, 2)
    outer = world.outline.bounds
    far = _farthest(
        _lay_places(world, outer, max(outer[2] - outer[0], outer[3] - outer[1]) / _PLACES), middles
    )
    if far is not None:
        rows.append(("far away", *far, "Active"))
    table = pd.DataFrame(rows, columns=["name", "x_m", "y_m", "kind"])
    longitude, latitude = unproject(
        table["x_m"].to_numpy(float), table["y_m"].to_numpy(float), world.crs
    )
    # Six decimals are a tenth of a metre.
    places = {"longitude": np.round(longitude, 6), "latitude": np.round(latitude, 6)}
    return table[["name"]].assign(**places, kind=table["kind"])


def _lay_places(world: World, bounds: tuple[float, float, float, float], step: float) -> np.ndarray:
    """Return places on ice within bounds, (n, 2)."""
    x, y = np.meshgrid(
        np.arange(bounds[0], bounds[2] + step / 2, step),
        np.arange(bounds[1], bounds[3] + step / 2, step),
    )
    held = world.outline_contains(x.ravel(), y.ravel())
    return np.column_stack([x.ravel(), y.ravel()])[held]


def _farthest(places: np.ndarray, others: np.ndarray) -> tuple[float, float] | None:
    """Return the place farthest from the nearest of other points; None where there is none."""
    if not len(places):
        return None
    if not len(others):
        return float(places[0, 0]), float(places[0, 1])
    gap = np.hypot(*(places[:, None, :] - others[None, :, :]).transpose(2, 0, 1)).min(axis=1)
    x, y = places[int(np.argmax(gap))]
    return float(x), float(y)


def write_inventory(world: World, path: str | os.PathLike[str]) -> None:
    """Write the inventory as CSV; it appears under its name when it is complete."""
    with written(path) as temporary:
        survey_lakes(world).to_csv(temporary, index=False, lineterminator="\n")
