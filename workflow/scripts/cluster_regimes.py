"""Adapter of rule cluster_regimes: nodes and mascons in, regimes out."""

from typing import Any

import pandas as pd

from cryofuse.config import RegimeSettings
from cryofuse.learning.regimes import cluster_regimes
from cryofuse.logs import job_log
from cryofuse.provenance import provenance
from cryofuse.tables import (
    REGIME_CENTROIDS,
    REGIME_MASCONS,
    REGIME_NODES,
    REGIME_STABILITY,
    read_geo_table,
    read_table,
    write_table,
)


def main(snakemake: Any) -> None:
    """Cluster the nodes of all tiles."""
    with job_log(snakemake.log[0]) as log:
        settings = RegimeSettings.model_validate(snakemake.params.regimes)
        nodes = pd.concat([read_table(path) for path in snakemake.input.nodes], ignore_index=True)
        regimes = cluster_regimes(nodes, read_geo_table(snakemake.input.mascons), settings)
        log.info("%d regimes of %d nodes", regimes.centroids.num_rows, len(nodes))
        chosen = regimes.stability.to_pandas().dropna(subset=["why"]).set_index("level")["why"]
        source = provenance(snakemake) | {"seed": settings.seed, "regimes": chosen.to_dict()}
        write_table(regimes.nodes, snakemake.output.nodes, REGIME_NODES, source)
        write_table(regimes.mascons, snakemake.output.mascons, REGIME_MASCONS, source)
        write_table(regimes.centroids, snakemake.output.centroids, REGIME_CENTROIDS, source)
        write_table(regimes.stability, snakemake.output.stability, REGIME_STABILITY, source)


if __name__ == "__main__":
    main(snakemake)
