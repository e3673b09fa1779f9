"""Forests, boosted trees and XGBoost fitted by Spark, on the feature files themselves.

Samples, folds, search spaces, baselines, scores and tables are those of
:mod:`cryofuse.learning.skill`; Spark reads the features of a region, fits to the rows of a fold
and gives back the predictions of its held-out rows. No feature passes between the job and Spark.

Rows lie in a number of partitions that depends on how many there are, sorted, so that a fit does
not depend on the number of executors: with one partition (up to ``ROWS_PER_PARTITION`` samples)
to the last digit, beyond it up to the order in which Spark adds the partitions' sums. What keeps
executors busy are the folds and models, fitted side by side.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from cryofuse.calendar import TIME_DTYPE
from cryofuse.learning.models import BINS
from cryofuse.learning.skill import Engine
from cryofuse.learning.spark.session import describe_engine
from cryofuse.learning.terms import ICE, driver_columns

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

    from cryofuse.learning.skill import Samples

#: Samples of a partition: a table of mascon months rarely holds more.
ROWS_PER_PARTITION = 50_000
#: Deepest tree that Spark grows; the default engine's forests have no limit.
DEEPEST = 30
#: Bins of a feature in Spark's forest, which sorts into bins where the default engine tries every
#: value.
FOREST_BINS = 32
#: Names of the columns that are no features.
_NUMBER, _LABEL, _FEATURES, _PREDICTED = "number", "label", "features", "prediction"
_MISSING = "missing_"


def depth_of(leaves: int) -> int:
    """Return the depth of the smallest full tree with at least this many leaves."""
    return min(int(leaves - 1).bit_length(), DEEPEST)


#: What the settings of the default engine are called by Spark, and how a value is written there;
#: None has no counterpart. XGBoost is the same library under both, its settings have their names.
PARAMETERS: dict[str, dict[str, tuple[str, Callable[[Any], Any]] | None]] = {
    "forest": {
        # A share, sqrt or log2 of the features at every split, under both.
        "max_features": ("featureSubsetStrategy", str),
        "min_samples_leaf": ("minInstancesPerNode", int),
        # Drawn with replacement under both; Spark draws how often each sample comes, by Poisson.
        "max_samples": ("subsamplingRate", float),
    },
    "hist_gradient_boosting": {
        # Spark grows level by level, not leaf by leaf: the depth that holds as many leaves.
        "max_leaf_nodes": ("maxDepth", depth_of),
        # Taken between trees, see _boost.
        "learning_rate": None,
        "min_samples_leaf": ("minInstancesPerNode", int),
        "max_features": ("featureSubsetStrategy", str),
        # A leaf of Spark's is the mean of its samples, without penalty.
        "l2_regularization": None,
    },
}
#: Models that Spark fits, with their blind twins.
MODELS = (*PARAMETERS, "xgboost")


def translate(model: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """Return settings of the search space as Spark's, those without a counterpart left out.

    Parameters
    ----------
    model
        ``forest`` or ``hist_gradient_boosting``.
    parameters
        Settings by the default engine's names.
    """
    found = {}
    for name, value in parameters.items():
        counterpart = PARAMETERS[model][name]
        if counterpart is not None:
            found[counterpart[0]] = counterpart[1](value)
    return found


def spark_engine(session: SparkSession, folder: str | Path, region: str) -> Engine:
    """Return the engine that fits in a Spark session.

    Parameters
    ----------
    session
        Session of :func:`cryofuse.learning.spark.session.open_session`.
    folder, region
        Folder of the feature files, where executors find it too, and the region in it.
    """
    # Each fit has plans of its own, and tables of mascon months are read sooner than code for them
    # is compiled.
    session.conf.set("spark.sql.codegen.wholeStage", "false")
    session.conf.set("spark.sql.codegen.factoryMode", "NO_CODEGEN")
    # XGBoost announces every fit.
    logging.getLogger("XGBoost-PySpark").setLevel(logging.WARNING)
    fits = _Fits(session, f"file://{Path(folder).resolve()}", region)
    return Engine(MODELS, fits.fit_predict, fits.run, describe_engine(session))


class _Fits:
    """The rows of a region as Spark holds them, and the fits to some of them."""

    def __init__(self, session: SparkSession, folder: str, region: str) -> None:
        self.session = session
        self.folder = folder
        self.region = region
        self._held: dict[tuple[str, ...], DataFrame] = {}
        self._reading = Lock()

    def run(self, function: Callable[[Any], Any], tasks: Iterable[Any]) -> Iterator[Any]:
        """Yield the results of tasks in their order, as many at a time as Spark has places."""
        context = self.session.sparkContext._jsc.sc()
        default = context.resourceProfileManager().defaultResourceProfile()
        places = max(1, context.maxNumConcurrentTasks(default))
        with ThreadPoolExecutor(places, thread_name_prefix="spark") as pool:
            yield from pool.map(function, tasks)

    def fit_predict(
        self,
        model: str,
        samples: Samples,
        train: np.ndarray,
        test: np.ndarray,
        parameters: dict[str, Any],
        trees: int,
        seed: int,
    ) -> np.ndarray:
        """Do what :func:`cryofuse.learning.skill.fit_predict` does."""
        rows = self._rows(samples)
        n = len(samples.table)
        training, held_out = rows.filter(_among(train, n)), rows.filter(_among(test, n))
        if model == "xgboost":
            # One worker: the same trees as the default engine's, whatever the cluster.
            training = training.repartition(1).sortWithinPartitions(_NUMBER)
            fitted = _xgboost(samples.names, parameters, trees, seed).fit(training)
        else:
            training, held_out = _impute(training, held_out, samples.names, len(train))
            if model == "forest":
                fitted = _forest(parameters, trees, seed).fit(training)
            else:
                return self._ordered(_boost(training, held_out, parameters, trees, seed), test)
        return self._ordered(fitted.transform(held_out), test)

    @staticmethod
    def _ordered(predictions: DataFrame, test: np.ndarray) -> np.ndarray:
        """Return the predictions of rows in the order in which they are asked for."""
        found = predictions.select(_NUMBER, _PREDICTED).toArrow()
        number, predicted = (found[name].to_numpy() for name in (_NUMBER, _PREDICTED))
        order = np.argsort(number)
        if not np.array_equal(number[order], np.sort(test)):
            raise ValueError(
                f"Spark predicted {len(number)} samples, not the {len(test)} asked for"
            )
        return predicted[order][np.searchsorted(number[order], test)]

    def _rows(self, samples: Samples) -> DataFrame:
        """Return the samples' rows, numbered as the samples are; read once."""
        key = (samples.target, *samples.names)
        with self._reading:
            if key not in self._held:
                self._held[key] = self._read(samples)
            return self._held[key]

    def _read(self, samples: Samples) -> DataFrame:
        from pyspark.sql import functions as sql

        table = samples.table
        keys = pa.table(
            {
                "mascon_id": pa.array(table["mascon_id"].to_numpy(np.int32)),
                "month": pa.array(table["month"].to_numpy(TIME_DTYPE)),
                _NUMBER: pa.array(np.arange(len(table), dtype=np.int32)),
            }
        )
        numbers = self.session.createDataFrame(
            keys, f"mascon_id int, month timestamp_ntz, {_NUMBER} int"
        )
        weighed = driver_columns(samples.names) & (ICE in samples.names)
        columns = [
            (sql.col(name) * sql.col(ICE)).alias(name) if by_ice else sql.col(name)
            for name, by_ice in zip(samples.names, weighed, strict=True)
        ]
        rows = (
            self.session.read.parquet(self.folder)
            .filter(sql.col("region") == self.region)
            .join(sql.broadcast(numbers), ["mascon_id", "month"])
            .select(_NUMBER, sql.col(f"target_{samples.target}_cm").alias(_LABEL), *columns)
            .repartition(-(-len(table) // ROWS_PER_PARTITION), _NUMBER)
            .sortWithinPartitions(_NUMBER)
            .cache()
        )
        found = rows.count()
        if found != len(table):
            raise ValueError(
                f"{self.folder} holds {found} of the {len(table)} samples of {self.region}"
            )
        return rows


def _among(positions: np.ndarray, n: int) -> Column:
    """Return which rows have one of these numbers: a byte for each of n samples, looked up.

    A join, or a list of numbers, would be planned anew and take longer for every fit.
    """
    from pyspark.sql import functions as sql

    marks = np.zeros(n, np.uint8)
    marks[positions] = 1
    return sql.substring(sql.lit(marks.tobytes()), sql.col(_NUMBER) + 1, sql.lit(1)) == sql.lit(
        b"\x01"
    )


def _impute(
    training: DataFrame, held_out: DataFrame, names: list[str], n_training: int
) -> tuple[DataFrame, DataFrame]:
    """Fill in the training rows' median and mark what was missing, as the default engine does.

    Spark's own imputer takes a value near the median, and fails at a column without any.
    """
    from pyspark.ml.feature import VectorAssembler
    from pyspark.sql import functions as sql

    medians = [sql.median(name).alias(name) for name in names]
    counts = [sql.count(name).alias(_MISSING + name) for name in names]
    known = training.agg(*medians, *counts).first()
    if known is None:
        raise ValueError("an aggregate of Spark has no row")
    gaps = [name for name in names if known[_MISSING + name] < n_training]
    filled = [sql.coalesce(sql.col(n), sql.lit(float(known[n] or 0.0))).alias(n) for n in names]
    marks = [sql.col(name).isNull().cast("double").alias(_MISSING + name) for name in gaps]
    vector = VectorAssembler(
        inputCols=[*names, *(_MISSING + name for name in gaps)], outputCol=_FEATURES
    )
    whole, held = (
        vector.transform(rows.select(_NUMBER, _LABEL, *filled, *marks)).select(
            _NUMBER, _LABEL, _FEATURES
        )
        for rows in (training, held_out)
    )
    return whole, held


def _forest(parameters: dict[str, Any], trees: int, seed: int) -> Any:
    """Return an unfitted forest of Spark."""
    from pyspark.ml.regression import RandomForestRegressor

    return RandomForestRegressor(
        featuresCol=_FEATURES,
        labelCol=_LABEL,
        predictionCol=_PREDICTED,
        numTrees=trees,
        maxDepth=DEEPEST,
        maxBins=FOREST_BINS,
        seed=seed,
        **translate("forest", parameters),
    )


def _boost(
    training: DataFrame, held_out: DataFrame, parameters: dict[str, Any], trees: int, seed: int
) -> DataFrame:
    """Return the predictions of boosted trees for held-out rows.

    The mean, and tree by tree a share of what is left (Friedman 2001, Ann. Stat. 29, 1189), as the
    default engine does. Spark's ``GBTRegressor`` adds its first tree whole: on noisy targets most
    of the skill is lost to it.
    """
    from pyspark.ml.regression import RandomForestRegressor
    from pyspark.sql import functions as sql

    left, tree, rate = "left", "tree", float(parameters["learning_rate"])
    grower = RandomForestRegressor(
        featuresCol=_FEATURES,
        labelCol=left,
        predictionCol=tree,
        numTrees=1,
        bootstrap=False,
        maxBins=BINS,
        **translate("hist_gradient_boosting", parameters),
    )
    mean = training.agg(sql.avg(_LABEL)).first()
    if mean is None:
        raise ValueError("an aggregate of Spark has no row")
    start = sql.lit(mean[0]).alias(_PREDICTED)
    known = training.select(_NUMBER, _FEATURES, (sql.col(_LABEL) - start).alias(left), start)
    asked = held_out.select(_NUMBER, _FEATURES, sql.lit(None).cast("double").alias(left), start)
    rows = known.union(asked).coalesce(training.rdd.getNumPartitions()).localCheckpoint()
    step = rate * sql.col(tree)
    for number in range(trees):
        fitted = grower.setSeed(seed + number).fit(rows.filter(sql.col(left).isNotNull()))
        rows = fitted.transform(rows).select(
            _NUMBER,
            _FEATURES,
            (sql.col(left) - step).alias(left),
            (sql.col(_PREDICTED) + step).alias(_PREDICTED),
        )
        # Without it each tree would go through all before it.
        rows = rows.localCheckpoint()
    return rows.filter(sql.col(left).isNull())


def _xgboost(names: list[str], parameters: dict[str, Any], trees: int, seed: int) -> Any:
    """Return an unfitted XGBoost as the default engine builds it; it takes nulls as they are."""
    from xgboost.spark import SparkXGBRegressor

    return SparkXGBRegressor(
        features_col=names,
        label_col=_LABEL,
        prediction_col=_PREDICTED,
        num_workers=1,
        device="cpu",
        n_estimators=trees,
        tree_method="hist",
        max_bin=BINS,
        random_state=seed,
        verbose=False,
        **parameters,
    )
