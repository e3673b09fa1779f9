"""Adapter of rule plan: what the plans hold, on the terminal."""

from pathlib import Path
from typing import Any

from cryofuse.acquire.earthdata import is_cut, is_present
from cryofuse.acquire.plan import read_manifest, summarise_plan
from cryofuse.config import DownloadSettings
from cryofuse.logs import job_log


def main(snakemake: Any) -> None:
    """Run the job."""
    with job_log(snakemake.log[0]) as logger:
        settings = DownloadSettings.model_validate(snakemake.config["download"])
        plans = {
            f"{Path(path).parent.name} {Path(path).stem}": read_manifest(
                path, settings.trusted_hosts
            )
            for path in snakemake.input.granules
        }
        text = summarise_plan(plans, lambda row: is_present(row, settings) or is_cut(row, settings))
        files = {
            Path(path).stem: read_manifest(path, settings.trusted_hosts, of_granules=False)
            for path in snakemake.input.collections
        }
        removed = len(list((Path(settings.cache_dir) / "removed").glob("*/*.csv")))
        lines = [text, *(f"{key}: {rows[0].granule}" for key, rows in files.items())]
        lines += [f"{file['key']}: {file['url']}" for file in snakemake.params.plain.values()]
        if removed:
            lines.append(f"raw granules of {removed} periods were removed after their use")
        logger.info("%s", "\n".join(lines))
        print("\n".join(lines))


if __name__ == "__main__":
    main(snakemake)
