"""Adapter of rule hold_granules: a period's raw granules are in the cache, or are again."""

from pathlib import Path
from typing import Any

from cryofuse.acquire.catalogue import bounding_box
from cryofuse.acquire.earthdata import restore_granules
from cryofuse.acquire.manifest import used_granules
from cryofuse.acquire.plan import read_manifest
from cryofuse.config import DownloadSettings, RegionSettings
from cryofuse.geo import load_outline
from cryofuse.logs import job_log
from cryofuse.tables import read_table


def main(snakemake: Any) -> None:
    """Run the job."""
    with job_log(snakemake.log[0]):
        settings = DownloadSettings.model_validate(snakemake.config["download"])
        region = RegionSettings.model_validate(snakemake.params.region)
        name, period = snakemake.wildcards.region, snakemake.wildcards.period
        receipt = read_table(snakemake.input.manifest)
        restore_granules(
            receipt,
            read_manifest(snakemake.input.plan, settings.trusted_hosts),
            settings,
            snakemake.config["refetch"],
            f"{name} {period}",
            bounding_box(load_outline(region), region.crs),
        )
        paths = used_granules(receipt)["path"]
        Path(snakemake.output.held).write_text("".join(f"{path}\n" for path in paths))


if __name__ == "__main__":
    main(snakemake)
