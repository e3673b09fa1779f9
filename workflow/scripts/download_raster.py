"""Adapter of rule download_raster: a mask, elevation model or bed from a collection."""

from pathlib import Path
from typing import Any

from cryofuse.acquire.collections import fetch_planned
from cryofuse.acquire.plan import only_file, read_manifest
from cryofuse.config import DownloadSettings
from cryofuse.logs import job_log


def main(snakemake: Any) -> None:
    """Run the job."""
    with job_log(snakemake.log[0]):
        settings = DownloadSettings.model_validate(snakemake.config["download"])
        plan = snakemake.input.plan
        row = only_file(read_manifest(plan, settings.trusted_hosts, of_granules=False), plan)
        fetch_planned(row, settings, Path(snakemake.output.raster))


if __name__ == "__main__":
    main(snakemake)
