"""K-Means of all nodes with Spark ML, from the Parquet files of the tiles.

What is small stays as it is: k and a partition are chosen on the even sample of nodes, and
mascons are clustered in the job. Spark reads the nodes, standardises them with the same
functions, and settles the partition on all of them. The job itself holds
``regimes.NODE_COLUMNS`` of all nodes, for quartiles, the join with mascons and the tables.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cryofuse.learning.regimes import (
    METRICS,
    Chosen,
    Scaler,
    explain_omissions,
    node_metrics,
    stretch_metrics,
)

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame, SparkSession

    from cryofuse.config import RegimeSettings

logger = logging.getLogger(__name__)

#: Columns of ``altimetry/nodes`` that Spark reads.
COLUMNS = (
    "node_id",
    "area_km2",
    "rate_m_yr",
    "rate_sigma_m_yr",
    "amplitude_m",
    "phase_rad",
    "slope",
    "latitude",
    "elevation_m",
    "interannual_m",
)
#: Nodes to a partition, and the fewest partitions. Partitions follow from the number of nodes
#: alone, so that neither cores nor executors decide which sums are taken first.
NODES_PER_PARTITION, FEWEST_PARTITIONS = 50_000, 4
#: Starts of which one has to come back to the partition that was chosen on the sample.
STARTS = 40
#: Adjusted Rand index on the sample from which two partitions are one: settling on all nodes
#: moves it by up to 0.025 in synthetic worlds, another local optimum by 0.05 or more.
SAME_PARTITION = 0.97
#: Iterations of a start at most; it ends where no centre moves by more than the second.
ITERATIONS, TOLERANCE = 300, 1e-4


def settle_with_spark(
    session: SparkSession, paths: list[str], settings: RegimeSettings
) -> Callable[[Chosen], np.ndarray]:
    """Return what settles a chosen partition of nodes with Spark ML's K-Means.

    Parameters
    ----------
    session
        Its executors have to see the files and the package.
    paths
        Files ``altimetry/nodes`` of all tiles.
    settings
        Largest σ of a rate, and the seed.

    Returns
    -------
    callable
        It returns a label of each usable node, by increasing ``node_id``.

    Notes
    -----
    Spark ML's K-Means takes no centres to start at: of starts with k-means|| (Bahmani et al.
    2012, Proc. VLDB 5, 622), the first is taken that comes back to the partition of the sample,
    else the one that comes nearest. The least inertia would be another rule: where two local
    optima are as good as equal, all nodes may prefer another one than the sample did.
    """

    def settle(chosen: Chosen) -> np.ndarray:
        points = _read_points(session, paths, len(chosen.stretched), chosen.scaler, settings)
        points.persist()
        try:
            labels = _settle(points, chosen, settings.seed)
        finally:
            points.unpersist()
        if labels.size != len(chosen.stretched):
            raise RuntimeError(
                f"Spark read {labels.size} usable nodes, the job {len(chosen.stretched)}"
            )
        return labels

    return settle


def _read_points(
    session: SparkSession, paths: list[str], count: int, scaler: Scaler, settings: RegimeSettings
) -> DataFrame:
    """Return node_id, area and standardised metrics of usable nodes, in a fixed order."""
    from pyspark.ml.feature import VectorAssembler

    # Without the scheme a cluster's own file system would be meant.
    nodes = session.read.parquet(*[f"file://{Path(path).resolve()}" for path in paths])
    partitions = max(FEWEST_PARTITIONS, -(-count // NODES_PER_PARTITION))
    placed = nodes.select(*COLUMNS).repartition(partitions, "node_id")
    schema = ", ".join(["node_id long", "area_km2 double", *(f"{n} double" for n in _POINT)])
    points = placed.sortWithinPartitions("node_id").mapInArrow(
        partial(_standardise, scaler=scaler, settings=settings), schema
    )
    assembler = VectorAssembler(inputCols=list(_POINT), outputCol="point")
    return assembler.transform(points).select("node_id", "area_km2", "point")


#: Names of standardised metrics.
_POINT = tuple(f"point_{name}" for name in METRICS)


def _standardise(
    batches: Iterator[pa.RecordBatch], scaler: Scaler, settings: RegimeSettings
) -> Iterator[pa.RecordBatch]:
    """Yield the usable nodes of batches, standardised as the job standardises them."""
    import pyarrow as pa

    for batch in batches:
        nodes = batch.to_pandas()
        metrics = node_metrics(nodes)
        usable = pd.isna(explain_omissions(nodes, metrics, settings))
        points = scaler.apply(stretch_metrics(metrics[usable]))
        columns = [nodes["node_id"].to_numpy()[usable], nodes["area_km2"].to_numpy()[usable]]
        yield pa.RecordBatch.from_arrays(
            [pa.array(column) for column in [*columns, *points.T]],
            names=["node_id", "area_km2", *_POINT],
        )


def _settle(points: DataFrame, chosen: Chosen, seed: int) -> np.ndarray:
    """Return the label of each point, by increasing node_id."""
    from pyspark.ml.clustering import KMeans
    from sklearn.metrics import adjusted_rand_score, pairwise_distances_argmin

    own = chosen.partition
    kmeans = KMeans(
        featuresCol="point", weightCol="area_km2", k=len(own.cluster_centers_),
        maxIter=ITERATIONS, tol=TOLERANCE,
    )  # fmt: skip
    nearest, best = -1.0, None
    for number, start in enumerate(np.random.default_rng([seed, 2]).integers(2**31, size=STARTS)):
        model = kmeans.setSeed(int(start)).fit(points)
        labels = pairwise_distances_argmin(chosen.sample, np.array(model.clusterCenters()))
        agreement = adjusted_rand_score(own.labels_, labels)
        logger.info("start %d: adjusted Rand %.3f with the sample", number + 1, agreement)
        if agreement > nearest:
            nearest, best = agreement, model
        if nearest >= SAME_PARTITION:
            break
    else:
        logger.warning(
            "none of %d starts comes back to the sample's partition; the nearest is taken "
            "(adjusted Rand %.2f)", STARTS, nearest,
        )  # fmt: skip
    assert best is not None
    found = best.transform(points).select("node_id", "prediction").toArrow()
    order = np.argsort(found["node_id"].to_numpy(), kind="stable")
    return found["prediction"].to_numpy()[order]
