"""Adapter of rule filter_segments: segments in, kept segments and ledger out."""

from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cryofuse.atl06.ledger import ledger_table
from cryofuse.atl06.quality import apply_filters, replace_dem
from cryofuse.atl06.tiles import write_by_tile
from cryofuse.config import FilterSettings, RegionSettings
from cryofuse.logs import job_log
from cryofuse.provenance import provenance
from cryofuse.rasters import load_ice, sample_raster
from cryofuse.tables import LEDGER, write_table


def main(snakemake: Any) -> None:
    """Run the job."""
    with job_log(snakemake.log[0]):
        settings = FilterSettings.model_validate(snakemake.params.filters)
        region = RegionSettings.model_validate(snakemake.params.region)
        segments = pq.ParquetFile(snakemake.input.segments).read()
        if region.dem:
            place = [segments.column(name).to_numpy() for name in ("x_m", "y_m")]
            segments = replace_dem(segments, sample_raster(region.dem, *place, region.crs))
        kept, rows = apply_filters(segments, settings, load_ice(region))
        origin = provenance(snakemake)
        write_by_tile([kept], snakemake.output.segments, origin)
        before = pq.ParquetFile(snakemake.input.ledger).read()
        after = ledger_table(rows, snakemake.wildcards.period)
        write_table(pa.concat_tables([before, after]), snakemake.output.ledger, LEDGER, origin)


if __name__ == "__main__":
    main(snakemake)
