"""Adapter of rule couple_sheet: totals and reference series in, coupling of the sheet out."""

from typing import Any

from cryofuse.config import CouplingSettings, RegionSettings
from cryofuse.logs import job_log
from cryofuse.products.reference import ice_sheet_of, read_references
from cryofuse.products.sheet import couple_sheet
from cryofuse.provenance import provenance
from cryofuse.tables import SHEET_COUPLING, read_table, write_table


def main(snakemake: Any) -> None:
    """Run the job."""
    with job_log(snakemake.log[0]):
        region = RegionSettings.model_validate(snakemake.params.region)
        coupled = couple_sheet(
            read_table(snakemake.input.totals),
            read_references(region.reference_series, ice_sheet_of(region.crs)),
            CouplingSettings.model_validate(snakemake.params.coupling),
        )
        write_table(coupled, snakemake.output.coupling, SHEET_COUPLING, provenance(snakemake))


if __name__ == "__main__":
    main(snakemake)
