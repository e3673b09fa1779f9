"""Adapter of rule remove_granules: the raw granules of a period out of the cache."""

from typing import Any

from cryofuse.acquire.earthdata import drop_marks, remove_granules
from cryofuse.config import DownloadSettings
from cryofuse.logs import job_log
from cryofuse.tables import read_table, written


def main(snakemake: Any) -> None:
    """Run the job."""
    with job_log(snakemake.log[0]):
        settings = DownloadSettings.model_validate(snakemake.config["download"])
        record = remove_granules(read_table(snakemake.input.manifest), settings)
        drop_marks(settings, record["path"])
        with written(snakemake.output.record) as temporary:
            record.to_csv(temporary, index=False)


if __name__ == "__main__":
    main(snakemake)
