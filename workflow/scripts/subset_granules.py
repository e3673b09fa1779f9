"""Adapter of rule subset_granules: a manifest in, the region's segments and ledger out."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cryofuse.acquire.manifest import missing_granules
from cryofuse.atl06.granule import Area
from cryofuse.atl06.ledger import LedgerRow, ledger_table
from cryofuse.atl06.subset import cut_granules
from cryofuse.atl06.tiles import write_by_tile
from cryofuse.calendar import clip_period
from cryofuse.compute import open_job_workers
from cryofuse.config import RegionSettings
from cryofuse.geo import load_outline
from cryofuse.logs import UserError, job_log
from cryofuse.provenance import provenance
from cryofuse.tables import LEDGER, write_table


def main(snakemake: Any) -> None:
    """Run the job."""
    with job_log(snakemake.log[0]) as logger:
        region = RegionSettings.model_validate(snakemake.params.region)
        area = Area(load_outline(region), region.crs, snakemake.params.elevation["tile_m"])
        manifest = pq.ParquetFile(snakemake.input.manifest).read()
        if held := snakemake.input.get("held"):
            missing = missing_granules(manifest.to_pandas())
            if len(missing):
                raise UserError(
                    f"{len(missing)} raw granules are not in the cache any more (the first: "
                    f"{missing['path'][0]}); remove {held} so that they are looked for again"
                )
        share = snakemake.params.filters["max_unreadable_share"]
        product = snakemake.params.altimetry["product"]
        months = snakemake.params.period
        period = clip_period(snakemake.wildcards.period, months["start"], months["end"])
        ledger: list[LedgerRow] = []

        def segments() -> Iterator[pa.Table]:
            with open_job_workers(snakemake) as run:
                for table, rows in cut_granules(manifest, area, share, product, period, run):
                    ledger.extend(rows)
                    yield table

        origin = provenance(snakemake)
        write_by_tile(segments(), snakemake.output.segments, area.tile_m, origin)
        for row in ledger:
            if row["filter"] in ("unreadable", "name_mismatch"):
                logger.warning("%s %s: %s", row["granule"], row["beam"] or "", row["reason"])
        table = ledger_table(ledger, snakemake.wildcards.period)
        write_table(table, snakemake.output.ledger, LEDGER, origin)


if __name__ == "__main__":
    main(snakemake)
