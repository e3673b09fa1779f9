"""Adapter of rule filter_segments: segments in, kept segments and ledger out."""

from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cryofuse.atl06.filtering import filter_file
from cryofuse.atl06.ledger import ledger_table
from cryofuse.config import FilterSettings, RegionSettings
from cryofuse.logs import job_log
from cryofuse.provenance import provenance
from cryofuse.rasters import load_ice, open_raster
from cryofuse.tables import LEDGER, write_table


def main(snakemake: Any) -> None:
    """Run the job."""
    with job_log(snakemake.log[0]):
        region = RegionSettings.model_validate(snakemake.params.region)
        origin = provenance(snakemake)
        rows = filter_file(
            snakemake.input.segments,
            snakemake.output.segments,
            FilterSettings.model_validate(snakemake.params.filters),
            snakemake.params.elevation["tile_m"],
            load_ice(region),
            open_raster(region.dem, region.crs) if region.dem else None,
            origin,
        )
        before = pq.ParquetFile(snakemake.input.ledger).read()
        after = ledger_table(rows, snakemake.wildcards.period)
        write_table(pa.concat_tables([before, after]), snakemake.output.ledger, LEDGER, origin)


if __name__ == "__main__":
    main(snakemake)
