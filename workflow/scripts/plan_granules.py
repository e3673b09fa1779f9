"""Adapter of rule plan_granules: the catalogue's granules of a period into a plan."""

from datetime import UTC, datetime
from typing import Any

from cryofuse.acquire.catalogue import Catalogue
from cryofuse.acquire.credentials import log_in
from cryofuse.acquire.plan import check_fetchable, plan_granules, write_manifest
from cryofuse.acquire.scope import plan_scope
from cryofuse.calendar import clip_period
from cryofuse.config import DownloadSettings, RegionSettings
from cryofuse.geo import load_outline
from cryofuse.logs import job_log


def main(snakemake: Any) -> None:
    """Run the job."""
    with job_log(snakemake.log[0]):
        settings = DownloadSettings.model_validate(snakemake.config["download"])
        region = RegionSettings.model_validate(snakemake.params.region)
        months = snakemake.params.period
        first, stop = clip_period(snakemake.wildcards.period, months["start"], months["end"])
        rows = plan_granules(
            Catalogue(log_in(settings.system)),
            settings,
            load_outline(region),
            region.crs,
            first,
            stop,
            trusted_hosts=settings.trusted_hosts,
        )
        check_fetchable(rows, first, stop)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        about = {"region": snakemake.wildcards.region, "searched": now}
        write_manifest(rows, snakemake.output.plan, about | plan_scope(region, first, stop))


if __name__ == "__main__":
    main(snakemake)
