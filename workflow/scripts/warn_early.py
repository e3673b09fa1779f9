"""Adapter of rule warn_early: mascon series and totals in, early-warning statistics out."""

from typing import Any

from cryofuse.config import EarlyWarningSettings
from cryofuse.logs import job_log
from cryofuse.products.early_warning import warn_early
from cryofuse.provenance import provenance
from cryofuse.tables import EARLY_WARNING, EARLY_WARNING_WINDOWS, read_table, write_table


def main(snakemake: Any) -> None:
    """Run the job."""
    with job_log(snakemake.log[0]):
        given = snakemake.input
        trends, windows = warn_early(
            read_table(given.fusion),
            read_table(given.mascons),
            read_table(given.totals),
            EarlyWarningSettings.model_validate(snakemake.params.early_warning),
        )
        source = provenance(snakemake)
        write_table(trends, snakemake.output.trends, EARLY_WARNING, source)
        write_table(windows, snakemake.output.windows, EARLY_WARNING_WINDOWS, source)


if __name__ == "__main__":
    main(snakemake)
