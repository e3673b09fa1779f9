"""Adapter of rule check_log_in: one log-in before the many of a plan."""

from pathlib import Path
from typing import Any

from cryofuse.acquire.credentials import log_in
from cryofuse.config import DownloadSettings
from cryofuse.logs import job_log


def main(snakemake: Any) -> None:
    """Run the job."""
    with job_log(snakemake.log[0]):
        log_in(DownloadSettings.model_validate(snakemake.config["download"]).system)
        Path(snakemake.output.checked).write_text("the log-in was accepted\n")


if __name__ == "__main__":
    main(snakemake)
