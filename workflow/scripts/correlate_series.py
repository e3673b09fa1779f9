"""Adapter of rule correlate_series: retrospective mascon months in, coupling out."""

from typing import Any

from cryofuse.config import CouplingSettings
from cryofuse.learning.coupling import correlate_mascons
from cryofuse.logs import job_log
from cryofuse.provenance import provenance
from cryofuse.tables import COUPLING, read_geo_table, read_table, write_table


def main(snakemake: Any) -> None:
    """Correlate elevation and mass of every selected mascon."""
    with job_log(snakemake.log[0]):
        settings = CouplingSettings.model_validate(snakemake.params.coupling)
        coupling = correlate_mascons(
            read_table(snakemake.input.fusion), read_geo_table(snakemake.input.mascons), settings
        )
        origin = provenance(snakemake) | {"seed": settings.seed}
        write_table(coupling, snakemake.output[0], COUPLING, origin)


if __name__ == "__main__":
    main(snakemake)
