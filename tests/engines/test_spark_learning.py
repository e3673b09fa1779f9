"""Skill on Spark beside the default engine: the same folds and tables, and how near the scores are.

Both ways to run it are taken, each once and as a user types it: Snakemake with ``local[2]``, and
``spark-submit`` to a standalone master with one worker.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml

from cryofuse.config import PeriodSettings, SkillSettings
from cryofuse.fusion.features import read_features, write_features
from cryofuse.learning import evaluate
from cryofuse.learning.skill import fit_predict, select_samples
from cryofuse.mascons.footprints import neighbours
from cryofuse.simulate.learning import learning_world
from cryofuse.tables import MASCONS, PREDICTIONS, SCORES, check, from_pandas, read_table
from tests.conftest import copy_project
from tests.spark_cluster import lacking, start_cluster

MODELS = ["forest", "hist_gradient_boosting", "xgboost"]
CORES, MEMORY_MB = 2, 2000
SKILL = {
    "models": MODELS,
    "splits": ["leave_mascon_out"],
    "targets": ["change"],
    "mascon_folds": 2,
    "inner_folds": 2,
    "candidates": 1,
    "trees": 12,
    "neighbour_buffer_km": None,
    "bootstrap_draws": 200,
    "label_permutations": 2,
    # Spark's first boosted tree is not shrunken: a small one spoils less.
    "search": {"hist_gradient_boosting": {"max_leaf_nodes": [4], "learning_rate": [0.2]}},
}
SETTINGS = SkillSettings.model_validate(SKILL)
KEYS = ["model", "split", "target", "fold", "mascon_id", "month", "observed_cm"]


@pytest.fixture(scope="module", autouse=True)
def engine():
    reason = lacking()
    if reason and os.environ.get("CI") == "true":
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)


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
    write_features(features, folder / "results" / "demo" / "features", "demo")
    mascons = folder / "results" / "demo" / "gravimetry" / "mascons.parquet"
    mascons.parent.mkdir()
    world.mascons.to_parquet(mascons)
    (folder / "spark.yaml").write_text(yaml.safe_dump({"skill": SKILL, "learning": LEARNING}))
    return folder
