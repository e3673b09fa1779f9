"""Adapter of rule remove_granules: the raw granules of a period out of the cache."""

from typing import Any

from cryofuse.acquire.earthdata import remove_granules
from cryofuse.logs import job_log
from cryofuse.tables import read_table, written


def main(snakemake: Any) -> None:
    """Run the job."""
    with job_log(snakemake.log[0]):
        record = remove_granules(read_table(snakemake.input.manifest))
        with written(snakemake.output.record) as temporary:
            record.to_csv(temporary, index=False)


if __name__ == "__main__":
    main(snakemake)
