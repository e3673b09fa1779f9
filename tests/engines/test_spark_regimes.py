"""Regimes with Spark: those of the default engine, from the rule's own script.

The world has nodes of unlike areas, and nodes that cannot be classified. The standalone cluster
works on other files of the same nodes, on another number of cores.
"""

import json
import os
import runpy
import socket
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from cryofuse.config import RegimeSettings
from cryofuse.learning.regimes import (
    NODE_COLUMNS,
    Chosen,
    explain_omissions,
    fit_scaler,
    node_metrics,
    stretch_metrics,
)
from cryofuse.learning.spark import regimes as spark_regimes
from cryofuse.learning.spark import session as spark_session
from cryofuse.learning.spark.session import open_session
from cryofuse.logs import UserError
from cryofuse.mascons.footprints import load_footprints
from cryofuse.tables import read_provenance
from tests.planted_nodes import plant
from tests.spark_cluster import start_cluster

SCRIPT = Path(__file__).parents[2] / "workflow/scripts/cluster_regimes.py"
#: Fewer than there are nodes, so that a sample decides and all are settled.
SETTINGS = RegimeSettings(bootstraps=3, k_max=7, max_nodes=1500)
#: As many regimes as are settled from afar, and starts of Spark's own K-Means.
REGIMES, SEEDS = 6, 5
TABLES = ("nodes", "mascons", "centroids", "stability")


def make_nodes():
    """Nodes of a planted world, in an order of their own."""
    nodes, _ = plant(100)
    rng = np.random.default_rng(5)
    nodes["area_km2"] *= rng.uniform(0.1, 1.0, len(nodes))
    nodes.loc[rng.random(len(nodes)) < 0.05, "amplitude_m"] = np.nan
    nodes.loc[rng.random(len(nodes)) < 0.05, "rate_sigma_m_yr"] = 9.0
    return nodes.sample(frac=1.0, random_state=1)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Run the script of the rule on the nodes in so many files and read its tables."""
    nodes = make_nodes()
    cluster = runpy.run_path(str(SCRIPT), run_name="script")["main"]

    def run_script(engine, master="", cores=1, files=3):
        folder = tmp_path_factory.mktemp("regimes")
        (folder / "nodes").mkdir()
        paths = [folder / "nodes" / f"tile {number}.parquet" for number in range(files)]
        for path, index in zip(paths, np.array_split(np.arange(len(nodes)), files), strict=True):
            rows = pa.Table.from_pandas(nodes.iloc[index], preserve_index=False)
            pq.write_table(rows.select(list(NODE_COLUMNS)), path)
        load_footprints("jpl_greenland").to_parquet(folder / "mascons.parquet")
        named = {"nodes": [str(path) for path in paths], "mascons": folder / "mascons.parquet"}
        output = {name: folder / f"{name}_found.parquet" for name in TABLES}
        job = SimpleNamespace(
            input=Files([*named["nodes"], str(named["mascons"])], **named),
            output=SimpleNamespace(**output),
            params=SimpleNamespace(
                regimes=SETTINGS.model_dump(mode="json"), learning={"engine": engine}
            ),
            log=[str(folder / "log")],
            config={"learning": {"engine": engine, "master": master}},
            rule="cluster_regimes",
            wildcards={"region": "demo"},
            threads=cores,
            resources=SimpleNamespace(mem_mb=1500),
        )
        cluster(job)
        found = {name: pq.read_table(path) for name, path in output.items()}
        return found, read_provenance(output["nodes"]), (folder / "log").read_text()

    return run_script


class Files(list):
    """Inputs of a job, some of them by name."""

    def __init__(self, paths, **named):
        super().__init__(paths)
        self.__dict__.update(named)


@pytest.fixture(scope="module")
def by_default(run):
    return run("scikit-learn")


@pytest.fixture(scope="module")
def local(run, spark_is_there):
    return run("spark", "local[*]", cores=1)


@pytest.fixture(scope="module")
def on_cluster(run, spark_master):
    return run("spark", spark_master, cores=1, files=5)


def regimes(result, level="nodes"):
    return result[0][level].to_pandas()["regime"]


def test_spark_finds_the_regimes_of_the_default_engine(by_default, local):
    ours, theirs = regimes(by_default), regimes(local)
    assert (ours.isna() == theirs.isna()).all()
    assert 0 < ours.isna().sum() < SETTINGS.max_nodes < len(ours)
    known = ours.notna()
    assert adjusted_rand_score(ours[known], theirs[known]) >= 0.95
    # Numbers follow the rates in both, so they are the same and not only the partition.
    assert (ours[known] == theirs[known]).mean() > 0.97


def test_spark_names_them_alike_and_writes_the_same_tables(by_default, local):
    for name in TABLES:
        assert local[0][name].schema.equals(by_default[0][name].schema, check_metadata=False)
        assert local[0][name].num_rows == by_default[0][name].num_rows
    ours, theirs = (r[0]["centroids"].to_pandas() for r in (by_default, local))
    assert ours["regime_name"].tolist() == theirs["regime_name"].tolist()
    assert ours["level"].tolist() == theirs["level"].tolist()
    np.testing.assert_allclose(ours["rate_m_yr"], theirs["rate_m_yr"], atol=0.02)
    # k is chosen on the sample, in the job.
    assert by_default[0]["stability"].equals(local[0]["stability"])
    assert (regimes(by_default, "mascons").dropna() == regimes(local, "mascons").dropna()).all()


def test_a_cluster_finds_what_one_core_finds_in_other_files(local, on_cluster):
    for name in TABLES:
        assert on_cluster[0][name].equals(local[0][name]), name


def test_tables_name_the_engine_and_no_host(by_default, local, on_cluster, spark_master):
    import pyspark

    assert by_default[1]["engine"] == {"name": "scikit-learn"}
    kinds = []
    for _, source, log in (local, on_cluster):
        assert source["engine"].pop("name") == "spark"
        assert source["engine"].pop("version") == pyspark.__version__
        kinds.append(source["engine"])
        written = json.dumps(source)
        assert spark_master not in written
        assert "127.0.0.1" not in written
        assert socket.gethostname() not in written
        assert "ERROR" not in log
    assert kinds == [{"master": "local"}, {"master": "standalone"}]


@pytest.fixture(scope="module")
def settled(spark_is_there, tmp_path_factory):
    """All nodes settled by Spark from afar, and clustered by Spark ML's own K-Means."""
    from pyspark.ml.clustering import KMeans as SparkKMeans

    nodes = make_nodes()
    path = tmp_path_factory.mktemp("settled") / "nodes.parquet"
    pq.write_table(pa.Table.from_pandas(nodes, preserve_index=False), path)
    nodes = nodes.sort_values("node_id", ignore_index=True)
    metrics = node_metrics(nodes)
    usable = pd.isna(explain_omissions(nodes, metrics, SETTINGS))
    area = nodes["area_km2"].to_numpy()[usable]
    stretched = stretch_metrics(metrics[usable])
    scaler = fit_scaler(stretched, area)
    points = scaler.apply(stretched)
    best = KMeans(REGIMES, n_init=30, tol=0, random_state=0).fit(points, sample_weight=area)
    drawn = np.random.default_rng(0).normal(size=best.cluster_centers_.shape)
    start = best.cluster_centers_ + 0.5 * points.std(axis=0) * drawn
    moved = SimpleNamespace(cluster_centers_=start)
    with open_session("local[2]", "test", 2, 1500) as session:
        settle = spark_regimes.settle_with_spark(session, [str(path)], SETTINGS)
        labels = settle(Chosen(moved, points, scaler, stretched, area))
        rows = spark_regimes._read_points(session, [str(path)], len(points), scaler, SETTINGS)
        rows = rows.persist()
        fits = [
            SparkKMeans(
                featuresCol="point", weightCol="area_km2", k=REGIMES, maxIter=100, seed=seed
            ).fit(rows)
            for seed in range(SEEDS)
        ]
        own = min(fits, key=lambda fit: fit.summary.trainingCost)
        found = own.transform(rows).select("node_id", "prediction").toArrow().sort_by("node_id")
        costs = [fit.summary.trainingCost for fit in fits]
    return SimpleNamespace(
        points=points,
        area=area,
        best=best,
        start=start,
        labels=labels,
        own=found["prediction"],
        costs=costs,
    )


def test_spark_settles_from_afar_where_scikit_learn_does(settled):
    points, area = settled.points, settled.area
    nearest = ((points[:, None] - settled.start) ** 2).sum(axis=2).argmin(axis=1)
    assert adjusted_rand_score(nearest, settled.best.labels_) < 0.9
    theirs = KMeans(REGIMES, init=settled.start, n_init=1, tol=0, max_iter=1000)
    theirs.fit(points, sample_weight=area)
    assert adjusted_rand_score(settled.labels, theirs.labels_) >= 0.99
    for number, centre in enumerate(theirs.cluster_centers_):
        # Spark numbers the centres in an order of its own.
        same = np.bincount(settled.labels[theirs.labels_ == number]).argmax()
        mine = settled.labels == same
        found = np.average(points[mine], axis=0, weights=area[mine])
        np.testing.assert_allclose(found, centre, atol=1e-3)


def test_k_means_of_spark_itself_finds_the_partition_of_scikit_learn(settled):
    assert adjusted_rand_score(settled.own, settled.best.labels_) >= 0.95
    assert min(settled.costs) <= 1.01 * settled.best.inertia_


def test_a_session_that_starts_too_slowly_is_given_up(spark_is_there, monkeypatch):
    monkeypatch.setattr(spark_session, "START_S", 0)
    with pytest.raises(UserError) as error, open_session("local[1]", "test", 1, 1500):
        pass
    assert str(error.value) == "Spark did not start on local[1]: not within 0 s (more in the log)"


def test_a_jvm_that_was_killed_is_not_used_again(spark_is_there, monkeypatch):
    from pyspark import SparkContext

    dead = SimpleNamespace(proc=subprocess.Popen(["true"]))
    dead.proc.wait()
    monkeypatch.setattr(SparkContext, "_gateway", dead)
    with open_session("local[1]", "test", cores=1, memory_mb=1500) as session:
        assert session.range(3).count() == 3


def test_a_session_leaves_nothing_behind(spark_is_there, tmp_path, monkeypatch):
    for name in ("tmp", "here"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    monkeypatch.chdir(tmp_path / "here")
    before = dict(os.environ)
    with open_session("local[*]", "test", cores=2, memory_mb=1500) as session:
        assert session.sparkContext.master == "local[2]"
        assert session.conf.get("spark.driver.memory") == "750m"
        assert session.conf.get("spark.sql.session.timeZone") == "UTC"
        # Others on the machine are asked for a secret, which Spark draws.
        assert session.sparkContext.getConf().get("spark.authenticate") == "true"
        assert "spark.authenticate.secret" not in dict(session.sparkContext.getConf().getAll())
        jvm = session.sparkContext._gateway.proc
        twice = session.range(1000).repartition(4).selectExpr("sum(id) AS total").toArrow()
        assert twice["total"].to_pylist() == [499500]
        assert list((tmp_path / "tmp").iterdir())
        with open_session("local[1]", "inner", cores=1, memory_mb=1500) as inner:
            assert inner.sparkContext is session.sparkContext
        assert session.range(3).count() == 3
    assert jvm.poll() is not None
    assert dict(os.environ) == before
    assert not list((tmp_path / "tmp").iterdir())
    assert not list((tmp_path / "here").iterdir())


def test_a_master_without_workers_is_given_up(spark_is_there, tmp_path, monkeypatch):
    monkeypatch.setattr(spark_session, "EXECUTOR_S", 3)
    with start_cluster(tmp_path, worker=False) as master:
        with pytest.raises(UserError) as error, open_session(master, "test", 1, 1500):
            pass
    assert f"no executor of {master} took a task within 3 s" in str(error.value)
