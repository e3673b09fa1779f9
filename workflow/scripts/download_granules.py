"""Adapter of rule download_granules: a period's granules into the cache, and their manifest."""

from typing import Any

from cryofuse.acquire.earthdata import Earthdata, download_granules
from cryofuse.calendar import clip_period
from cryofuse.config import DownloadSettings, RegionSettings
from cryofuse.geo import load_outline
from cryofuse.logs import job_log
from cryofuse.provenance import provenance
from cryofuse.tables import MANIFEST, write_table


def main(snakemake: Any) -> None:
    """Run the job."""
    with job_log(snakemake.log[0]):
        settings = DownloadSettings.model_validate(snakemake.params.download)
        region = RegionSettings.model_validate(snakemake.params.region)
        months = snakemake.params.period
        first, stop = clip_period(snakemake.wildcards.period, months["start"], months["end"])
        manifest = download_granules(
            Earthdata(), settings, load_outline(region), region.crs, first, stop
        )
        write_table(manifest, snakemake.output.manifest, MANIFEST, provenance(snakemake))


if __name__ == "__main__":
    main(snakemake)
