"""Which rules go to nodes, and what they ask for there."""

import contextlib
import os
import re
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from snakemake.api import ResourceSettings, SnakemakeApi
from snakemake.common.tbdstring import TBDString
from snakemake.settings.types import ConfigSettings

from cryofuse.compute import JOB_MB, worker_memory
from cryofuse.config import ElevationSettings, RegionSettings
from cryofuse.geo import list_tiles, load_outline
from tests.conftest import ROOT

PROFILE = ROOT / "profiles" / "slurm" / "config.yaml"
#: Those whose memory or time grows with the archive or with mascons times months.
HEAVY = {
    "simulate_granules",
    "subset_granules",
    "filter_segments",
    "fit_nodes",
    "read_mascons",
    "fuse_mascons",
    "build_features",
    "find_lakes",
    "cluster_regimes",
    "score_skill",
    "trace_learning",
    "fit_models",
    "predict_months",
    "explain_variance",
    "correlate_series",
    "study_melt_seasons",
    "draw_altimetry",
    "draw_maps",
    "validate_world",
}
#: Their memory has a bound (docs/benchmarks.md), whatever their input is.
BOUNDED = {"simulate_granules", "subset_granules", "filter_segments", "fit_nodes"}
#: The interpreter of the script and two of Snakemake.
LEAST_MB = 600


def load_rules(folder, **config):
    """Return the rules of the workflow by name, and those that stay where Snakemake runs.

    What is loaded later replaces the variables of what was loaded before: one region for all.
    """
    snakefile = ROOT / "Snakefile"
    before = dict(os.environ)
    with contextlib.chdir(folder), SnakemakeApi() as api:
        workflow = api.workflow(
            ResourceSettings(cores=1),
            config_settings=ConfigSettings(config=config),
            snakefile=snakefile,
            workdir=folder,
        )._workflow
        os.environ.clear()
        os.environ.update(before)
        rules = {rule.name: rule for rule in workflow.rules}
        return rules, {name for name in rules if rules[name].norun} | workflow._localrules


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synthetic")
    return load_rules(folder, regions="demo", source="synthetic")


class Given(SimpleNamespace):
    """Inputs of a job as a resource function sees them."""

    def __contains__(self, path):
        return path in vars(self).values()


def asked(rule, resource, *, size_mb=0.0, attempt=1, threads=1, **named):
    """Return what a rule asks for; its inputs are of this size."""
    given = Given(size_mb=size_mb, **named)
    found = rule.resources[resource].evaluate(
        SimpleNamespace(region="demo"), input=given, attempt=attempt, threads=threads
    )
    return found.value


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Return inputs whose files and features are of a size: 37 granules, two files of a year."""
    folder = tmp_path_factory.mktemp("inputs")

    def sized(size_mb):
        here = folder / str(size_mb)
        here.mkdir(exist_ok=True)
        sizes = [round(size_mb * 1e6 / 37)] * 37 + [None]
        pq.write_table(pa.table({"size_bytes": pa.array(sizes, pa.int64())}), here / "m.parquet")
        for year in (2019, 2020):
            part = here / "features" / "region=demo" / f"year={year}"
            part.mkdir(parents=True, exist_ok=True)
            with (part / "part-0.parquet").open("wb") as file:
                file.truncate(round(size_mb * 1e6 / 2))
        files = {"manifest": str(here / "m.parquet"), "features": str(here / "features")}
        return {"size_mb": size_mb, **files}

    return sized


@pytest.mark.parametrize("source", ["synthetic", "local", "earthdata"])
def test_only_heavy_rules_go_to_nodes(source, tmp_path, synthetic):
    if source == "synthetic":
        rules, local = synthetic
    else:
        (tmp_path / "atl06").mkdir()
        (tmp_path / "mascons.nc").touch()
        files = {"atl06_dir": str(tmp_path / "atl06"), "mascons_file": str(tmp_path / "mascons.nc")}
        rules, local = load_rules(tmp_path, regions="demo", source=source, local=files)
    expected = HEAVY - ({"simulate_granules", "validate_world"} if source != "synthetic" else set())
    assert set(rules) - local == expected


def test_every_heavy_rule_asks_for_more_at_each_attempt(synthetic, inputs):
    rules, _ = synthetic
    for name in HEAVY:
        for resource in ("mem_mb", "runtime"):
            once, twice, thrice = (
                asked(rules[name], resource, attempt=attempt, **inputs(10.0))
                for attempt in (1, 2, 3)
            )
            # Whole megabytes and minutes.
            assert abs(twice - 2 * once) <= 2 and abs(thrice - 3 * once) <= 3, (name, resource)
            assert once >= (LEAST_MB if resource == "mem_mb" else 10), (name, resource)


def test_every_heavy_rule_follows_the_size_of_what_it_reads(synthetic, inputs):
    rules, _ = synthetic
    for name in HEAVY - {"simulate_granules"}:
        small, large = (asked(rules[name], "runtime", **inputs(size)) for size in (1.0, 4001.0))
        assert large > small, name
        small, large = (asked(rules[name], "mem_mb", **inputs(size)) for size in (1.0, 4001.0))
        assert large == small if name in BOUNDED else large > small, name


def test_what_known_inputs_ask_for(synthetic, inputs, tmp_path):
    rules, _ = synthetic
    subset, fit, skill = (rules[n] for n in ("subset_granules", "fit_nodes", "score_skill"))
    # A month of Greenland, 37 whole granules of 50 MB; the manifest itself is of kilobytes.
    month = inputs(1850.0) | {"size_mb": 0.02}
    assert asked(subset, "runtime", **month) == 29
    assert asked(subset, "runtime", attempt=2, **month) == 58
    assert asked(subset, "mem_mb", threads=1, **month) == 2000
    assert asked(subset, "mem_mb", threads=4, attempt=2, **month) == 9400
    # A tile reads its share of the region.
    region = RegionSettings.model_validate(
        yaml.safe_load((ROOT / "config" / "regions" / "demo.yaml").read_text())
    )
    tiles = list_tiles(load_outline(region), ElevationSettings().tile_m)
    assert asked(fit, "runtime", size_mb=100.5 * len(tiles)) == 30
    assert asked(fit, "mem_mb", size_mb=1e5, threads=4) == 7000
    # 393 mascons and 75 months: a folder, whose entry Snakemake counts as nothing.
    features = inputs(11.0) | {"size_mb": 0.3}
    assert asked(skill, "runtime", **features) == 140
    assert asked(skill, "mem_mb", threads=8, **features) == 7120
    assert asked(rules["fuse_mascons"], "mem_mb", attempt=2, size_mb=5000.0) == 7000
    # Without the files Snakemake asks again once they are there.
    gone = {"manifest": str(tmp_path / "gone"), "features": str(tmp_path / "gone")}
    assert isinstance(asked(subset, "runtime", **gone), TBDString)
    assert isinstance(asked(skill, "runtime", **gone), TBDString)


def test_every_worker_of_a_job_gets_the_memory_that_a_task_takes(synthetic, inputs):
    rules, _ = synthetic
    tasks_mb = {
        "subset_granules": 900,
        "fit_nodes": 1500,
        "score_skill": 600,
        "trace_learning": 600,
        "explain_variance": 600,
    }
    for name, task_mb in tasks_mb.items():
        for threads in (2, 4, 8, 32):
            given_mb = asked(rules[name], "mem_mb", threads=threads, **inputs(1.0))
            assert worker_memory(given_mb, threads) >= task_mb, (name, threads)
            # Nothing is made up: workers and the job itself fit into what is asked for.
            assert threads * worker_memory(given_mb, threads) + JOB_MB <= given_mb + 1


def test_threads_of_the_profile_are_those_of_heavy_rules():
    profile = yaml.safe_load(PROFILE.read_text())
    assert set(profile["set-threads"]) <= HEAVY


def test_account_partition_and_constraint_stand_in_the_profile_alone():
    """They are a cluster's and a person's own: no rule, script or module names one."""
    wanted = re.compile(r"slurm_account|slurm_partition|\bconstraint\b *[=:]|\bqos\b|--account")
    files = [ROOT / "Snakefile", *(ROOT / "workflow").rglob("*"), *(ROOT / "src").rglob("*.py")]
    files += [*(ROOT / "config").rglob("*.yaml"), *(ROOT / "profiles" / "local").iterdir()]
    texts = [
        path for path in files if path.is_file() and path.suffix in ("", ".py", ".smk", ".yaml")
    ]
    assert len(texts) > 50
    assert not [str(path) for path in texts if wanted.search(path.read_text())]
    named = PROFILE.read_text()
    assert all(key in named for key in ("slurm_account:", "slurm_partition:", "constraint:"))


def test_every_key_of_the_profile_has_its_reason():
    """A comment stands above each key, or on the line of one group."""
    lines = PROFILE.read_text().splitlines()
    keys = [i for i, line in enumerate(lines) if re.match(r"[a-z-]+:", line)]
    bare = [lines[i] for i in keys if not lines[i - 1].startswith("#")]
    # What the executor is needs no reason but the title.
    assert bare == ["default-resources:"]


def test_a_local_spark_master_asks_for_its_cores_and_reads_its_code(
    tmp_path, monkeypatch, synthetic
):
    # Planning needs to know that Spark is installed, and nothing of it.
    (tmp_path / "pyspark").mkdir()
    (tmp_path / "pyspark" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    learning = {"engine": "spark", "master": "local[3]"}
    rules, _ = load_rules(tmp_path, regions="demo", source="synthetic", learning=learning)
    for name in ("cluster_regimes", "score_skill"):
        assert rules[name].resources["_cores"].value == 3
        with_spark, without = (
            any("/learning/spark/" in str(path) for path in found[name].input)
            for found in (rules, synthetic[0])
        )
        assert with_spark and not without
