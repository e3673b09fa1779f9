"""Adapter of rule cluster_regimes: nodes and mascons in, regimes out."""

from contextlib import ExitStack
from typing import Any

import pandas as pd

from cryofuse.config import RegimeSettings
from cryofuse.learning.regimes import NODE_COLUMNS, cluster_regimes, settle_here
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
    with job_log(snakemake.log[0]) as log, ExitStack() as stack:
        settings = RegimeSettings.model_validate(snakemake.params.regimes)
        paths = list(snakemake.input.nodes)
        engine, settle = {"name": snakemake.params.learning["engine"]}, settle_here
        if engine["name"] == "spark":
            # Code of a job with Spark alone, and input of no other.
            from cryofuse.learning.spark.regimes import settle_with_spark
            from cryofuse.learning.spark.session import describe_engine, open_job_session

            session = stack.enter_context(open_job_session(snakemake))
            engine, settle = describe_engine(session), settle_with_spark(session, paths, settings)
        nodes = pd.concat(
            [read_table(path, list(NODE_COLUMNS)) for path in paths], ignore_index=True
        )
        mascons = read_geo_table(snakemake.input.mascons)
        regimes = cluster_regimes(nodes, mascons, settings, settle)
        log.info("%d regimes of %d nodes", regimes.centroids.num_rows, len(nodes))
        chosen = regimes.stability.to_pandas().dropna(subset=["why"]).set_index("level")["why"]
        source = provenance(snakemake) | {"seed": settings.seed, "regimes": chosen.to_dict()}
        source["engine"] = engine
        write_table(regimes.nodes, snakemake.output.nodes, REGIME_NODES, source)
        write_table(regimes.mascons, snakemake.output.mascons, REGIME_MASCONS, source)
        write_table(regimes.centroids, snakemake.output.centroids, REGIME_CENTROIDS, source)
        write_table(regimes.stability, snakemake.output.stability, REGIME_STABILITY, source)


if __name__ == "__main__":
    main(snakemake)
