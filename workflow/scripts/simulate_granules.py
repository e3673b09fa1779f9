"""Adapter of rule simulate_granules: a planted world in, a period's granules and manifest out."""

from pathlib import Path
from typing import Any

from cryofuse.calendar import clip_period
from cryofuse.config import ElevationSettings, PeriodSettings, RegionSettings, WorldSettings
from cryofuse.logs import job_log
from cryofuse.provenance import provenance
from cryofuse.simulate.granules import write_granules
from cryofuse.simulate.world import World
from cryofuse.tables import MANIFEST, write_table, written


def main(snakemake: Any) -> None:
    """Run the job."""
    with job_log(snakemake.log[0]) as log:
        months = PeriodSettings.model_validate(snakemake.params.period)
        world = World(
            WorldSettings.model_validate(snakemake.params.world),
            RegionSettings.model_validate(snakemake.params.region),
            months,
            ElevationSettings.model_validate(snakemake.params.elevation),
        )
        name = snakemake.wildcards.period
        folder = Path("resources", snakemake.wildcards.region, "synthetic", "atl06", name)
        first, stop = clip_period(name, months.start, months.end)
        manifest, ledger = write_granules(world, folder, first, stop)
        log.info("%d granules, %d segments", manifest.num_rows, ledger["rows"].sum())
        with written(folder / "file_ledger.parquet") as temporary:
            ledger.to_parquet(temporary, index=False)
        write_table(manifest, snakemake.output.manifest, MANIFEST, provenance(snakemake))


if __name__ == "__main__":
    main(snakemake)
