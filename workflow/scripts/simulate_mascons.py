"""Adapter of rule simulate_mascons: a planted world in; mascon files, lake inventory, truth out."""

from typing import Any

from cryofuse.config import ElevationSettings, PeriodSettings, RegionSettings, WorldSettings
from cryofuse.logs import job_log
from cryofuse.simulate.lake_inventory import write_inventory
from cryofuse.simulate.mascons import plant_mass, write_mascons, write_truth
from cryofuse.simulate.world import World


def main(snakemake: Any) -> None:
    """Run the job."""
    with job_log(snakemake.log[0]):
        world = World(
            WorldSettings.model_validate(snakemake.params.world),
            RegionSettings.model_validate(snakemake.params.region),
            PeriodSettings.model_validate(snakemake.params.period),
            ElevationSettings.model_validate(snakemake.params.elevation),
        )
        truth = plant_mass(world, snakemake.params.product)
        write_mascons(
            truth,
            snakemake.output.mascons,
            snakemake.output.get("land_mask"),
            snakemake.output.get("mapping"),
        )
        write_truth(world, truth, snakemake.output.truth)
        write_inventory(world, snakemake.output.inventory)


if __name__ == "__main__":
    main(snakemake)
