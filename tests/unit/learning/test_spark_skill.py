"""What needs no Spark: settings in its words, and the configuration of a submitted run."""

import subprocess
import sys
from typing import Any

import pytest
import yaml

from cryofuse.config import SearchSettings
from cryofuse.learning.spark import skill, submit
from cryofuse.logs import UserError


def test_settings_are_written_in_words_of_spark() -> None:
    forest = {"max_features": 0.3, "min_samples_leaf": 5, "max_samples": 0.5}
    assert skill.translate("forest", forest) == {
        "featureSubsetStrategy": "0.3",
        "minInstancesPerNode": 5,
        "subsamplingRate": 0.5,
    }
    boosted = {
        "max_leaf_nodes": 8,
        "learning_rate": 0.1,
        "min_samples_leaf": 20,
        "l2_regularization": 1.0,
        "max_features": 0.5,
    }
    assert skill.translate("hist_gradient_boosting", boosted) == {
        "maxDepth": 3,
        # The rate is not Spark's: it is taken between trees.
        "minInstancesPerNode": 20,
        "featureSubsetStrategy": "0.5",
    }


@pytest.mark.parametrize("model", skill.PARAMETERS)
def test_every_setting_that_is_searched_has_a_word_or_none(model: str) -> None:
    assert set(skill.PARAMETERS[model]) == set(SearchSettings().space(model))


@pytest.mark.parametrize(("leaves", "depth"), [(2, 1), (3, 2), (4, 2), (5, 3), (8, 3), (9, 4)])
def test_a_tree_is_as_deep_as_its_leaves_need(leaves: int, depth: int) -> None:
    assert skill.depth_of(leaves) == depth
    assert 2**depth >= leaves > 2 ** (depth - 1)


def test_the_default_engine_needs_no_spark() -> None:
    code = "import cryofuse.learning.skill, sys; print('pyspark' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_what_is_missing_is_told_in_a_line(tmp_path: Any) -> None:
    with pytest.raises(UserError, match="lost.yaml: cannot be read"):
        submit.read_config([tmp_path / "lost.yaml"])
    own = tmp_path / "own.yaml"
    own.write_text(yaml.safe_dump({"source": "synthetic", "skill": {"trees": 7}}))
    content = submit.read_config([own])
    # Laid over the defaults key by key.
    defaults = yaml.safe_load((submit.ROOT / "config" / "config.yaml").read_text())
    assert content["skill"] == defaults["skill"] | {"trees": 7}
    assert content["learning"]["engine"] == "spark"
    for stage in ("skill", "regimes"):
        with pytest.raises(UserError, match="is missing: run Snakemake"):
            submit.make_job(stage, content, "demo", tmp_path, tmp_path, 1)
