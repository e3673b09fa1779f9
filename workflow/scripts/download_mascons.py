"""Adapter of rule download_mascons: the mascon file into the cache."""

from pathlib import Path
from typing import Any

from cryofuse.acquire.earthdata import Earthdata, download_mascons
from cryofuse.config import DownloadSettings, MasconSettings
from cryofuse.logs import job_log


def main(snakemake: Any) -> None:
    """Run the job."""
    with job_log(snakemake.log[0]):
        settings = DownloadSettings.model_validate(snakemake.params.download)
        product = MasconSettings.model_validate(snakemake.params.mascons).product
        download_mascons(Earthdata(), settings, product, Path(snakemake.output.mascons))


if __name__ == "__main__":
    main(snakemake)
