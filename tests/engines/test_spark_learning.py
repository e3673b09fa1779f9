"""Skill on Spark beside the default engine: the same folds and tables, scores within intervals.

Both ways to run it are taken, each once and as a user types it: Snakemake with ``local[2]``, and
``spark-submit`` to a standalone master with one worker.
"""

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from cryofuse.config import PeriodSettings, SkillSettings
from cryofuse.fusion.features import read_features, write_features
from cryofuse.learning import evaluate
from cryofuse.learning.skill import fit_predict, select_samples
from cryofuse.learning.spark import skill as on_spark
from cryofuse.learning.spark.session import open_session
from cryofuse.mascons.footprints import neighbours
from cryofuse.simulate.learning import learning_world
from cryofuse.tables import PREDICTIONS, SCORES, check, from_pandas, read_provenance, read_table
from tests.conftest import copy_project

MODELS = ["forest", "hist_gradient_boosting", "xgboost"]
SKILL = {
    "models": MODELS,
    "splits": ["leave_mascon_out"],
    "targets": ["change"],
    "mascon_folds": 2,
    "inner_folds": 2,
    "candidates": 1,
    "trees": 10,
    "neighbour_buffer_km": 0,
    "bootstrap_draws": 200,
    "label_permutations": 2,
}
SETTINGS = SkillSettings.model_validate(SKILL)
KEYS = ["model", "split", "target", "fold", "mascon_id", "month", "observed_cm"]
CORES, MEMORY_MB = 2, 2000


@pytest.fixture(scope="module", autouse=True)
def quick_java():
    """Virtual machines that live for a minute: little is gained by compiling twice."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAVA_TOOL_OPTIONS", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC")
        yield


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project with the features and mascons of a world, some of its values gone."""
    folder = copy_project(tmp_path_factory.mktemp("project"))
    period = PeriodSettings.model_validate({"start": "2018-10", "end": "2023-12"})
    world = learning_world(7, period=period)
    features = world.features
    rng = np.random.default_rng(1)
    for name in ("dh_change_1m_m_lag01", "elevation_m"):
        features.loc[rng.random(len(features)) < 0.1, name] = np.nan
    inputs = folder / "results" / "demo"
    (inputs / "gravimetry").mkdir(parents=True)
    write_features(features, inputs / "features", "demo")
    world.mascons.to_parquet(inputs / "gravimetry" / "mascons.parquet")
    run = {"regions": ["demo"], "source": "synthetic", "skill": SKILL}
    (folder / "small.yaml").write_text(yaml.safe_dump(run))
    return folder, read_features(inputs / "features"), neighbours(world.mascons, 0.0)


@pytest.fixture(scope="module")
def default(project):
    _, features, near = project
    return evaluate(features, SETTINGS, near)


def tables(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    return tuple(read_table(folder / f"{name}.parquet") for name in ("scores", "predictions"))


@pytest.fixture(scope="module")
def by_snakemake(project, spark_is_there):
    """The tables of the rule on a local master."""
    folder, _, _ = project
    target = "results/demo/skill/scores.parquet"
    command = [sys.executable, "-m", "snakemake", target, "--allowed-rules", "score_skill"]
    command += ["--cores", str(CORES), "--configfile", "small.yaml"]
    command += ["--config", "learning={engine: spark}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    log = folder / "logs" / "demo" / "score_skill.log"
    assert done.returncode == 0, done.stderr + (log.read_text() if log.exists() else "")
    engine = read_provenance(folder / target)["engine"]
    version = importlib.metadata.version("pyspark")
    assert engine == {"name": "spark", "version": version, "master": "local"}
    return tables(folder / "results" / "demo" / "skill")


def test_both_engines_score_the_same_rows_of_the_same_folds(default, by_snakemake):
    for theirs, mine in zip(by_snakemake, default, strict=True):
        assert list(theirs.columns) == list(mine.columns)
        assert len(theirs) == len(mine)
    scores, predictions = by_snakemake
    check(from_pandas(scores), SCORES)
    check(from_pandas(predictions), PREDICTIONS)
    pd.testing.assert_frame_equal(predictions[KEYS], default[1][KEYS], check_dtype=False)
    names = ["model", "kind", "split", "target", "scope", "score", "n", "n_blocks"]
    pd.testing.assert_frame_equal(scores[names], default[0][names], check_dtype=False)
    spark = predictions["model"].str.removesuffix("_blind").isin(MODELS)
    both = predictions["predicted_cm"], default[1]["predicted_cm"]
    # What does not run on Spark is the default engine's.
    assert np.array_equal(both[0][~spark], both[1][~spark])
    assert np.isfinite(both[0]).all()


@pytest.mark.parametrize("model", MODELS)
def test_scores_lie_within_the_bootstrap_interval_of_the_default_engine(
    model, default, by_snakemake
):
    def pooled(scores):
        rows = scores[(scores["model"] == model) & (scores["scope"] == "pooled")]
        return rows.set_index("score").loc["r2"]

    interval, found = pooled(default[0]), pooled(by_snakemake[0])
    assert interval["lower"] < interval["value"] < interval["upper"]
    assert interval["lower"] <= found["value"] <= interval["upper"]


def correlations(model, default, found):
    """Correlation of a model's predictions on Spark with each fitted one of the default engine."""
    theirs = found[1].set_index("model")["predicted_cm"]
    ours = default[1].set_index("model")["predicted_cm"]
    fitted = [name for name in ours.index.unique() if name.removesuffix("_blind") in MODELS]
    # Rows of all models are in one order.
    return pd.Series({name: np.corrcoef(ours[name], theirs[model])[0, 1] for name in fitted})


@pytest.mark.parametrize("model", [*MODELS, *(f"{name}_blind" for name in MODELS)])
def test_predictions_correlate_with_the_same_model_of_the_default_engine(
    model, default, by_snakemake
):
    found = correlations(model, default, by_snakemake)
    assert len(found) == 2 * len(MODELS)
    # Ten trees of a forest are drawn by another generator; its blind twin is another model.
    assert found[model] >= (0.999 if model.startswith("xgboost") else 0.8)
    twin = model.removesuffix("_blind") if model.endswith("_blind") else f"{model}_blind"
    assert found[model] > found[twin] + 0.02
    if model.startswith("xgboost"):
        assert found.idxmax() == model


def test_models_on_spark_are_not_one_another(by_snakemake):
    predictions = by_snakemake[1].set_index("model")["predicted_cm"]
    together = np.corrcoef([predictions[name] for name in MODELS])
    assert (together[np.triu_indices(len(MODELS), 1)] < 0.99).all()


def test_spark_submit_on_a_cluster_writes_the_tables_of_snakemake(
    project, by_snakemake, spark_master, tmp_path
):
    folder, _, _ = project
    home = Path(importlib.util.find_spec("pyspark").origin).parent
    submit = [home / "bin" / "spark-submit", "--master", spark_master]
    program = ["src/cryofuse/learning/spark/submit.py", "skill", "--configfile", "small.yaml"]
    program += ["--region", "demo", "--output", str(tmp_path / "out")]
    variables = {
        "PYTHONPATH": str(folder / "src"),
        "PYSPARK_PYTHON": sys.executable,
        "SPARK_HOME": str(home),
        "SPARK_LOCAL_IP": "127.0.0.1",
    }
    done = subprocess.run(
        [*submit, *program],
        cwd=folder,
        env=os.environ | variables,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-5000:]
    for theirs, mine in zip(tables(tmp_path / "out" / "demo" / "skill"), by_snakemake, strict=True):
        pd.testing.assert_frame_equal(theirs, mine, check_exact=True)
    for name in ("table.md", "table.csv"):
        whole = [root / "demo" / "skill" / name for root in (tmp_path / "out", folder / "results")]
        assert whole[0].read_text() == whole[1].read_text()
    origin = read_provenance(tmp_path / "out" / "demo" / "skill" / "scores.parquet")
    assert origin["rule"] == "score_skill (spark-submit)"
    assert origin["engine"]["master"] == "standalone"


@pytest.fixture(scope="module")
def session(spark_is_there):
    with open_session("local[*]", "test", CORES, MEMORY_MB) as opened:
        yield opened


def halves(features):
    samples = select_samples(features, "change", SETTINGS)
    test = samples.table["mascon_id"].isin(np.unique(samples.table["mascon_id"])[::2]).to_numpy()
    return samples, np.flatnonzero(~test), np.flatnonzero(test)


def settings_of(model):
    return {name: values[0] for name, values in SETTINGS.search.space(model).items()}


@pytest.mark.parametrize("model", MODELS)
def test_held_out_targets_change_nothing_that_is_fitted(model, project, session, tmp_path):
    folder, features, _ = project
    samples, train, test = halves(features)
    other = features.drop(columns=["region", "year"])
    ids = samples.table["mascon_id"].iloc[test].unique()
    other.loc[other["mascon_id"].isin(ids), "target_change_cm"] *= -100
    write_features(other, tmp_path / "features", "demo")
    found = []
    for place in (folder / "results" / "demo" / "features", tmp_path / "features"):
        fits = on_spark.spark_engine(session, place, "demo")
        found.append(fits.fit_predict(model, samples, train, test, settings_of(model), 3, 1))
    assert np.array_equal(*found)
    assert np.ptp(found[0]) > 0


@pytest.mark.parametrize(
    ("rate", "steps"),
    # The second tree splits on b where the first has left less of a than there is of b, which is
    # 2 (1 − rate) < 1, else on a again.
    [(0.8, (2 * 0.8, 0.8)), (0.1, (2 * 0.1 + 2 * 0.9 * 0.1, 0.0))],
)
def test_two_stumps_are_boosted_as_the_formula_says(rate, steps, session):
    # The mean of 4a + 2b is 3, its stumps are ±2 by a and ±1 by b.
    corners = [(a, b) for a in (0.0, 1.0) for b in (0.0, 1.0)]
    from pyspark.ml.linalg import Vectors

    rows = session.createDataFrame(
        [(n, 4 * a + 2 * b, Vectors.dense(a, b)) for n, (a, b) in enumerate(corners)],
        ["number", "label", "features"],
    )
    settings = {"max_leaf_nodes": 2, "learning_rate": rate, "min_samples_leaf": 1}
    found = on_spark._boost(rows, rows, settings | {"max_features": 1.0}, 2, 1).collect()
    of_a, of_b = steps
    expected = [3 + of_a * (2 * a - 1) + of_b * (2 * b - 1) for a, b in corners]
    np.testing.assert_allclose([r["prediction"] for r in sorted(found)], expected, rtol=1e-12)


def test_several_partitions_change_no_prediction_of_xgboost(project, session, monkeypatch):
    folder, features, _ = project
    samples, train, test = halves(features)
    monkeypatch.setattr(on_spark, "ROWS_PER_PARTITION", 300)
    fits = on_spark.spark_engine(session, folder / "results" / "demo" / "features", "demo")
    # Held-out rows come back in the order that was asked for.
    test = test[::-1]
    arguments = ("xgboost", samples, train, test, settings_of("xgboost"), 12, 1)
    assert np.array_equal(fits.fit_predict(*arguments), fit_predict(*arguments))
    forest = fits.fit_predict("forest", samples, train, test, settings_of("forest"), 12, 1)
    mine = fit_predict("forest", samples, train, test, settings_of("forest"), 12, 1)
    assert np.corrcoef(forest, mine)[0, 1] > 0.8


def test_a_sample_that_the_files_lack_is_not_passed_over(project, session, tmp_path):
    _, features, _ = project
    samples, train, test = halves(features)
    write_features(features[:-1].drop(columns=["region", "year"]), tmp_path / "f", "demo")
    fits = on_spark.spark_engine(session, tmp_path / "f", "demo")
    with pytest.raises(ValueError, match="of the .* samples of demo"):
        fits.fit_predict("forest", samples, train, test, settings_of("forest"), 3, 1)
