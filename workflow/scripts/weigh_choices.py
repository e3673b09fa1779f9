"""Adapter of rule weigh_choices: mascon series in, mass under every rule and density out."""

from typing import Any

from cryofuse.config import ApplicationSettings, SelectSettings
from cryofuse.logs import job_log
from cryofuse.products.sensitivity import weigh_choices
from cryofuse.provenance import provenance
from cryofuse.tables import SENSITIVITY, read_table, write_table


def main(snakemake: Any) -> None:
    """Run the job."""
    with job_log(snakemake.log[0]):
        given, params = snakemake.input, snakemake.params
        table = weigh_choices(
            read_table(given.fusion),
            read_table(given.mass),
            read_table(given.mascons),
            SelectSettings.model_validate(params.select),
            ApplicationSettings.model_validate(params.applications),
            params.sample,
        )
        write_table(table, snakemake.output.sensitivity, SENSITIVITY, provenance(snakemake))


if __name__ == "__main__":
    main(snakemake)
