"""A whole synthetic world on disk: granules, the mascon file, lakes known before, the truth."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from cryofuse.calendar import clip_period
from cryofuse.config import Box, ElevationSettings, PeriodSettings, RegionSettings
from cryofuse.simulate.granules import write_granules
from cryofuse.simulate.lake_inventory import write_inventory
from cryofuse.simulate.mascons import plant_mass, write_mascons, write_truth
from cryofuse.simulate.world import World
from cryofuse.tables import written

if TYPE_CHECKING:
    import pyarrow as pa

    from cryofuse.config import WorldSettings

#: Where a world lies that is given no region: a piece of ice as wide as one mascon.
DEFAULT_REGION = RegionSettings(
    title="Synthetic ice",
    crs="EPSG:3413",
    outline=Box(west=-46.0, south=70.8, east=-40.0, north=72.4),
)


def write_world(
    settings: WorldSettings,
    folder: str | os.PathLike[str],
    *,
    region: RegionSettings | None = None,
    period: PeriodSettings | None = None,
    elevation: ElevationSettings | None = None,
    product: str = "jpl",
) -> list[pa.Table]:
    """Write a synthetic world.

    Its files: ``atl06/{period}/*.h5``, ``mascons.nc``, ``inventory.csv`` (lakes) and ``truth/``.

    Parameters
    ----------
    settings
        Section ``world`` of the configuration.
    folder
        Where it is written.
    region, period, elevation
        Where and when the world is seen, and its windows; by default a small piece of ice over
        the default period, without windows.
    product
        Whose mascons: ``jpl``, ``csr`` (with ``land_mask.nc`` and ``mapping.nc`` beside) or
        ``gsfc`` (then the file is ``mascons.h5``).

    Returns
    -------
    list of pyarrow.Table
        The manifests (contract MANIFEST) of the periods, in order.
    """
    import pandas as pd

    target = Path(folder)
    place = region or DEFAULT_REGION
    months = period or PeriodSettings()
    world = World(settings, place, months, elevation)
    manifests, ledgers = [], []
    for name in months.list():
        first, stop = clip_period(name, months.start, months.end)
        manifest, ledger = write_granules(world, target / "atl06" / name, first, stop)
        manifests.append(manifest)
        ledgers.append(ledger)
    truth = plant_mass(world, product)
    name = "mascons.h5" if product == "gsfc" else "mascons.nc"
    write_mascons(truth, target / name, target / "land_mask.nc", target / "mapping.nc")
    write_truth(world, truth, target / "truth")
    write_inventory(world, target / "inventory.csv")
    with written(target / "truth" / "file_ledger.parquet") as temporary:
        pd.concat(ledgers, ignore_index=True).to_parquet(temporary, index=False)
    return manifests
