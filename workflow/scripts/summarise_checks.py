"""Adapter of rule summarise_checks: the pairs of all tiles in, what they say of the fits out."""

from typing import Any

import pyarrow.parquet as pq

from cryofuse.elevation.checks import summarise_checks
from cryofuse.logs import job_log
from cryofuse.provenance import provenance
from cryofuse.tables import CHECKS, write_table


def main(snakemake: Any) -> None:
    """Run the job."""
    with job_log(snakemake.log[0]):
        # Read one at a time, as the summary asks for it.
        tiles = (pq.ParquetFile(path).read() for path in snakemake.input.checks)
        table = summarise_checks(tiles)
        write_table(table, snakemake.output.checks, CHECKS, provenance(snakemake))


if __name__ == "__main__":
    main(snakemake)
