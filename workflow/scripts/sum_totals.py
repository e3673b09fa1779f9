"""Adapter of rule sum_totals: mascon series in, totals, sea level and comparison out."""

from typing import Any

from cryofuse.config import ApplicationSettings, RegionSettings
from cryofuse.logs import job_log
from cryofuse.products.reference import ice_sheet_of, read_references
from cryofuse.products.totals import compare_series, sea_level_trends, sum_totals
from cryofuse.provenance import provenance
from cryofuse.tables import COMPARISON, SEA_LEVEL, TOTALS, read_table, write_table


def main(snakemake: Any) -> None:
    """Run the job."""
    with job_log(snakemake.log[0]) as log:
        settings = ApplicationSettings.model_validate(snakemake.params.applications)
        region = RegionSettings.model_validate(snakemake.params.region)
        references = read_references(region.reference_series, ice_sheet_of(region.crs))
        for reference in references:
            log.info("%s: %s rows left out", reference.title, reference.dropped or "no")
        totals = sum_totals(
            read_table(snakemake.input.fusion),
            read_table(snakemake.input.mass),
            read_table(snakemake.input.mascons),
            settings,
            snakemake.params.sample,
        )
        source = provenance(snakemake)
        write_table(totals, snakemake.output.totals, TOTALS, source)
        write_table(sea_level_trends(totals), snakemake.output.sea_level, SEA_LEVEL, source)
        compared = compare_series(totals, references)
        write_table(compared, snakemake.output.comparison, COMPARISON, source)


if __name__ == "__main__":
    main(snakemake)
