"""Adapter of rule fit_nodes: filtered segments in, nodes, node months and checks of a tile out."""

from typing import Any

from cryofuse.compute import open_job_workers
from cryofuse.config import (
    ElevationSettings,
    FusionSettings,
    PeriodSettings,
    RegionSettings,
)
from cryofuse.elevation.tiles import fit_tile
from cryofuse.logs import job_log
from cryofuse.provenance import provenance
from cryofuse.tables import CHECK_PAIRS, NODE_MONTHS, NODE_MONTHS_CAUSAL, NODES, write_table


def main(snakemake: Any) -> None:
    """Run the job."""
    with job_log(snakemake.log[0]) as log:
        with open_job_workers(snakemake) as run:
            result = fit_tile(
                snakemake.input.segments,
                snakemake.wildcards.tile,
                RegionSettings.model_validate(snakemake.params.region),
                ElevationSettings.model_validate(snakemake.params.elevation),
                FusionSettings.model_validate(snakemake.params.fusion),
                PeriodSettings.model_validate(snakemake.params.period),
                run,
            )
        fitted = int(result.fits["reason"].isna().sum())
        log.info("%d of %d nodes fitted", fitted, len(result.fits))
        origin = provenance(snakemake)
        write_table(result.fits, snakemake.output.nodes, NODES, origin)
        write_table(result.months, snakemake.output.node_months, NODE_MONTHS, origin)
        write_table(result.causal, snakemake.output.causal, NODE_MONTHS_CAUSAL, origin)
        write_table(result.checks, snakemake.output.checks, CHECK_PAIRS, origin)


if __name__ == "__main__":
    main(snakemake)
