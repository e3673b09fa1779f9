"""Adapter of rule download_mascons: the mascon file, and what its centre keeps beside it."""

from pathlib import Path
from typing import Any

from cryofuse.acquire.collections import fetch_pinned, fetch_planned
from cryofuse.acquire.plan import only_file, read_manifest
from cryofuse.config import DownloadSettings
from cryofuse.logs import job_log


def main(snakemake: Any) -> None:
    """Run the job."""
    with job_log(snakemake.log[0]):
        settings = DownloadSettings.model_validate(snakemake.config["download"])
        for output, file in snakemake.params.plain.items():
            fetch_pinned(
                file["url"],
                Path(settings.manifest_dir) / "plain" / f"{file['key']}.csv",
                settings,
                Path(snakemake.output[output]),
                snakemake.config["refresh"],
            )
        if plan := snakemake.input.get("plan"):
            row = only_file(read_manifest(plan, settings.trusted_hosts, of_granules=False), plan)
            fetch_planned(row, settings, Path(snakemake.output.mascons))


if __name__ == "__main__":
    main(snakemake)
