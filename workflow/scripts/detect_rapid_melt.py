"""Adapter of rule detect_rapid_melt: mascon series and totals in, flagged months and rates out."""

from typing import Any

from cryofuse.config import RapidMeltSettings
from cryofuse.logs import job_log
from cryofuse.products.rapid_melt import detect_rapid_melt
from cryofuse.provenance import provenance
from cryofuse.tables import RAPID_MELT, RAPID_MELT_RATES, read_table, write_table


def main(snakemake: Any) -> None:
    """Run the job."""
    with job_log(snakemake.log[0]):
        given = snakemake.input
        months, rates = detect_rapid_melt(
            read_table(given.fusion),
            read_table(given.mass),
            read_table(given.mascons),
            read_table(given.totals),
            read_table(given.predicted),
            RapidMeltSettings.model_validate(snakemake.params.rapid_melt),
        )
        source = provenance(snakemake)
        write_table(months, snakemake.output.months, RAPID_MELT, source)
        write_table(rates, snakemake.output.rates, RAPID_MELT_RATES, source)


if __name__ == "__main__":
    main(snakemake)
