"""Adapter of rule read_mascons: a mascon file in, footprints on ice and the mass table out."""

from typing import Any

from cryofuse.config import MasconSettings, RegionSettings
from cryofuse.logs import job_log
from cryofuse.mascons.basins import join_basins, mascon_rule, read_basins
from cryofuse.mascons.footprints import (
    load_footprints,
    measure_ice,
    region_extent,
    select_mascons,
)
from cryofuse.mascons.read import read_mascons
from cryofuse.provenance import provenance
from cryofuse.rasters import load_ice
from cryofuse.tables import MASCONS, MASS, write_geo_table, write_table


def main(snakemake: Any) -> None:
    """Run the job."""
    with job_log(snakemake.log[0]):
        region = RegionSettings.model_validate(snakemake.params.region)
        settings = MasconSettings.model_validate(snakemake.params.mascons)
        ice = load_ice(region).polygon
        known = load_footprints(region.footprints) if region.footprints else None
        mascons, mass = read_mascons(
            snakemake.input.mascons,
            settings.product,
            snakemake.input.get("land_mask"),
            extent=region_extent(ice, region.crs),
            footprints=known,
            mapping=snakemake.input.get("mapping"),
        )
        origin = provenance(snakemake) | {"gravimetry": mascons.attrs}
        if known is not None and mascons.attrs["footprints"] != known.attrs["title"]:
            known = None  # the product has footprints of its own
        by_basin = snakemake.params.fusion["unit"] == "basin"
        rule = mascon_rule(settings.select) if by_basin else settings.select
        mascons = select_mascons(measure_ice(mascons, ice, region.crs, known), rule)
        if by_basin:
            basins = read_basins(region.basins, region.crs)
            mascons, mass, told = join_basins(
                mascons, mass, basins, ice, region.crs, settings.select
            )
            origin["gravimetry"] |= told
        mass = mass[mass["mascon_id"].isin(mascons["mascon_id"])]
        write_geo_table(
            mascons[[*MASCONS.columns, "geometry"]], snakemake.output.mascons, MASCONS, origin
        )
        write_table(mass, snakemake.output.mass, MASS, origin)


if __name__ == "__main__":
    main(snakemake)
