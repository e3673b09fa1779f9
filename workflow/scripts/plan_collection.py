"""Adapter of rule plan_collection: a collection's newest file into a plan."""

from datetime import UTC, datetime
from typing import Any

from cryofuse.acquire.catalogue import Catalogue
from cryofuse.acquire.credentials import log_in
from cryofuse.acquire.plan import plan_file, write_manifest
from cryofuse.config import DownloadSettings
from cryofuse.logs import job_log


def main(snakemake: Any) -> None:
    """Run the job."""
    with job_log(snakemake.log[0]):
        settings = DownloadSettings.model_validate(snakemake.config["download"])
        file = snakemake.params.file
        row = plan_file(
            Catalogue(log_in(settings.system)),
            file["short_name"],
            file["version"],
            pattern=file["pattern"],
            trusted_hosts=settings.trusted_hosts,
        )
        now = datetime.now(UTC).isoformat(timespec="seconds")
        about = {"collection": file["short_name"], "searched": now}
        write_manifest([row], snakemake.output.plan, about)


if __name__ == "__main__":
    main(snakemake)
