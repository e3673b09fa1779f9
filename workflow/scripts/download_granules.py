"""Adapter of rule download_granules: a period's plan into the cache, and the receipt."""

from pathlib import Path
from typing import Any

import pandas as pd

from cryofuse.acquire.catalogue import bounding_box
from cryofuse.acquire.earthdata import download_granules
from cryofuse.acquire.plan import read_manifest, read_searched
from cryofuse.acquire.scope import check_scope, plan_scope
from cryofuse.calendar import clip_period
from cryofuse.config import DownloadSettings, RegionSettings
from cryofuse.geo import load_outline
from cryofuse.logs import job_log
from cryofuse.provenance import provenance
from cryofuse.tables import MANIFEST, write_table


def main(snakemake: Any) -> None:
    """Run the job."""
    with job_log(snakemake.log[0]):
        settings = DownloadSettings.model_validate(snakemake.config["download"])
        region = RegionSettings.model_validate(snakemake.params.region)
        months = snakemake.params.period
        name, period = snakemake.wildcards.region, snakemake.wildcards.period
        first, stop = clip_period(period, months["start"], months["end"])
        rows = read_manifest(snakemake.input.plan, settings.trusted_hosts)
        searched = read_searched(snakemake.input.plan)
        check_scope(snakemake.input.plan, searched, plan_scope(region, first, stop))
        record = Path(settings.cache_dir) / "removed" / name / f"{period}.csv"
        receipt = download_granules(
            rows,
            settings,
            first,
            stop,
            f"{name} {period}",
            bounding_box(load_outline(region), region.crs),
            pd.read_csv(record) if record.is_file() else None,
        )
        write_table(receipt, snakemake.output.manifest, MANIFEST, provenance(snakemake))


if __name__ == "__main__":
    main(snakemake)
