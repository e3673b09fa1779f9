"""Adapter of rule list_granules: a folder in, a period's manifest out."""

from typing import Any

from cryofuse.acquire.local import list_local
from cryofuse.calendar import clip_period
from cryofuse.logs import job_log
from cryofuse.provenance import provenance
from cryofuse.tables import MANIFEST, write_table


def main(snakemake: Any) -> None:
    """Run the job."""
    with job_log(snakemake.log[0]):
        months = snakemake.params.period
        first, stop = clip_period(snakemake.wildcards.period, months["start"], months["end"])
        product = snakemake.params.altimetry["product"]
        manifest = list_local(snakemake.params.local[f"{product}_dir"], first, stop, product)
        write_table(manifest, snakemake.output.manifest, MANIFEST, provenance(snakemake))


if __name__ == "__main__":
    main(snakemake)
