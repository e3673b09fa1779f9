"""Adapter of rule fuse_mascons: nodes and mascons in, both tables of mascon × month out."""

from typing import Any

import numpy as np
import pandas as pd

from cryofuse.calendar import TIME_DTYPE, month_range
from cryofuse.config import ElevationSettings, FusionSettings, PeriodSettings
from cryofuse.fusion.aggregate import (
    CAUSAL_COLUMNS,
    NODE_COLUMNS,
    NODE_MONTH_COLUMNS,
    fuse_causal,
    fuse_retrospective,
)
from cryofuse.logs import job_log
from cryofuse.provenance import provenance
from cryofuse.tables import MASCON_MONTHS, read_geo_table, read_table, write_table


def main(snakemake: Any) -> None:
    """Run the job."""
    with job_log(snakemake.log[0]):
        settings = FusionSettings.model_validate(snakemake.params.fusion)
        elevation = ElevationSettings.model_validate(snakemake.params.elevation)
        period = PeriodSettings.model_validate(snakemake.params.period)
        months = month_range(period.start, period.end)
        mascons = read_geo_table(snakemake.input.mascons)
        mass = read_table(snakemake.input.mass)
        nodes = pd.concat(
            [read_table(path, NODE_COLUMNS) for path in _paths(snakemake.input.nodes)],
            ignore_index=True,
        )
        retrospective = fuse_retrospective(
            mascons,
            mass,
            nodes,
            (read_table(p, NODE_MONTH_COLUMNS) for p in _paths(snakemake.input.node_months)),
            months,
            np.datetime64(elevation.reference_date).astype(TIME_DTYPE),
            settings,
        )
        causal = fuse_causal(
            mascons,
            mass,
            nodes,
            (read_table(p, CAUSAL_COLUMNS) for p in _paths(snakemake.input.causal)),
            months,
            settings,
        )
        origin = provenance(snakemake)
        write_table(retrospective, snakemake.output.retrospective, MASCON_MONTHS, origin)
        write_table(causal, snakemake.output.causal, MASCON_MONTHS, origin)


def _paths(files: Any) -> list[str]:
    # Sums of floats depend on their order, so the order of the rule's list must not matter.
    return [files] if isinstance(files, str) else sorted(files)


if __name__ == "__main__":
    main(snakemake)
