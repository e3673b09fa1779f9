"""Adapter of rule draw_series: series by mascon and region in, four figures out."""

from typing import Any

from cryofuse.config import RegionSettings
from cryofuse.logs import job_log
from cryofuse.products import figures_series as figures
from cryofuse.products.figures_sheet import draw_sheet_coupling
from cryofuse.products.reference import ice_sheet_of, read_references
from cryofuse.products.style import save_outputs
from cryofuse.tables import read_table


def main(snakemake: Any) -> None:
    """Run the job."""
    with job_log(snakemake.log[0]):
        given = snakemake.input
        region = RegionSettings.model_validate(snakemake.params.region)
        references = read_references(region.reference_series, ice_sheet_of(region.crs))
        unit = snakemake.params.unit
        fusion, mascons = read_table(given.fusion), read_table(given.mascons)
        totals, comparison = read_table(given.totals), read_table(given.comparison)
        save_outputs(
            snakemake.output,
            {
                "mascon_series": figures.draw_mascon_series(fusion, mascons, region.title, unit),
                "totals": figures.draw_totals(totals, comparison, references, region.title, unit),
                "sheet_coupling": draw_sheet_coupling(
                    totals, references, read_table(given.sheet_coupling), region.title
                ),
                "case_study": figures.draw_case_study(
                    read_table(given.case_study),
                    region.title,
                    snakemake.params.case_study["months"],
                    unit,
                ),
            },
        )


if __name__ == "__main__":
    main(snakemake)
