"""Adapter of rule report_filters: the ledgers of all periods in, what each filter costs out."""

from typing import Any

import pyarrow.parquet as pq

from cryofuse.atl06.report import LEDGER_COLUMNS, report_filters
from cryofuse.logs import job_log
from cryofuse.provenance import provenance
from cryofuse.tables import FILTER_REPORT, write_table


def main(snakemake: Any) -> None:
    """Run the job."""
    with job_log(snakemake.log[0]):
        files = zip(snakemake.params.periods, snakemake.input.ledger, strict=True)
        # Read one at a time, as the report asks for it.
        ledgers = ((name, pq.ParquetFile(path).read(LEDGER_COLUMNS)) for name, path in files)
        origin = provenance(snakemake)
        write_table(report_filters(ledgers), snakemake.output.table, FILTER_REPORT, origin)


if __name__ == "__main__":
    main(snakemake)
