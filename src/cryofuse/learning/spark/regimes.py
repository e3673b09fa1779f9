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
import pyarrow as pa

from cryofuse.learning.regimes import (
    METRICS,
    Chosen,
    Scaler,
    explain_omissions,
    node_metrics,
    stretch_metrics,
)

if TYPE_CHECKING:
    from pyspark.ml.clustering import KMeansModel
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
#: Nodes to a partition, and the fewest partitions. Partitions and the order in them follow from
#: the nodes alone, so that the sums of a partition are the same on any cores. In which order
#: partitions come to be added is left to Spark: centres may differ in their last digits.
NODES_PER_PARTITION, FEWEST_PARTITIONS = 50_000, 4
#: Iterations at most; they end where no centre moves by more than the second (Spark's own rule).
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
        Largest σ of a rate.

    Returns
    -------
    callable
        It returns a label of each usable node, by increasing ``node_id``.

    Notes
    -----
    Lloyd's iterations (1982, IEEE Trans. Inf. Theory 28, 129) from the centres of the sample:
    Spark ML's K-Means model labels the nodes, its summarizer takes their means by area.
    ``KMeans.fit`` itself takes no centres to start at, and its own starts (k-means||, Bahmani et
    al. 2012, Proc. VLDB 5, 622) seldom come back to the partition that was chosen: where regimes
    run into each other, not one of a hundred did.
    """

    def settle(chosen: Chosen) -> np.ndarray:
        points = _read_points(session, paths, len(chosen.stretched), chosen.scaler, settings)
        points.persist()
        try:
            labels = _settle(points, chosen.partition.cluster_centers_)
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


def _settle(points: DataFrame, centres: np.ndarray) -> np.ndarray:
    """Return the label of each point, by increasing node_id."""
    from pyspark.ml.stat import Summarizer

    mean = Summarizer.mean(points["point"], points["area_km2"]).alias("mean")
    for number in range(1, ITERATIONS + 1):
        model = _model_at(points.sparkSession, centres)
        centres = np.array(model.clusterCenters())
        before = centres.copy()
        # A centre that has lost all its points stays where it is.
        for row in model.transform(points).groupBy("prediction").agg(mean).collect():
            centres[row["prediction"]] = row["mean"].toArray()
        moved = float(np.linalg.norm(centres - before, axis=1).max())
        if moved <= TOLERANCE:
            logger.info("settled on all nodes in %d iterations", number)
            break
    else:
        logger.warning("not settled in %d iterations; the last moved by %.2g", ITERATIONS, moved)
    labelled = _model_at(points.sparkSession, centres).transform(points)
    found = labelled.select("node_id", "prediction").toArrow()
    order = np.argsort(found["node_id"].to_numpy(), kind="stable")
    return found["prediction"].to_numpy()[order]


def _model_at(session: SparkSession, centres: np.ndarray) -> KMeansModel:
    """Return Spark ML's model with these centres: that of k rows in k clusters, without a step."""
    from pyspark.ml.clustering import KMeans
    from pyspark.ml.functions import array_to_vector

    rows = session.createDataFrame(pa.table({"centre": centres.tolist()})).coalesce(1)
    rows = rows.select(array_to_vector(rows["centre"]).alias("point"))
    kmeans = KMeans(featuresCol="point", k=len(centres), initMode="random", maxIter=0, seed=0)
    return kmeans.fit(rows)
