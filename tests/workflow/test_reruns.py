"""What runs again, and what does not: after a threshold, a module, a period, a kill."""

import os
import re
import signal
import subprocess
import time

import pyarrow.parquet as pq
import pytest

from tests.conftest import copy_project, snakemake, snakemake_command

pytestmark = pytest.mark.e2e


def jobs(folder, *arguments):
    """Return the jobs that a dry run would start: rule → count."""
    shown = snakemake(folder, *arguments, "-n", "--quiet", "host").stdout
    table = re.findall(r"^(\w+)\s+(\d+)$", shown, flags=re.MULTILINE)
    return {rule: int(count) for rule, count in table if rule not in ("total", "all")}


def tables(folder):
    return {
        path.relative_to(folder): pq.read_table(path)
        for path in sorted((folder / "results").rglob("*.parquet"))
        # What a kill left half written keeps its temporary name.
        if not path.name.startswith(".")
    }


def test_a_finished_run_has_nothing_to_do(tiny_run):
    assert jobs(tiny_run) == {}


def test_a_filter_threshold_reruns_the_filter_and_after_but_not_the_subset(tiny_run):
    found = jobs(tiny_run, "--config", "filters={height_sigma_max_m: 0.9}")
    assert found["filter_segments"] == 4
    assert {"report_filters", "fit_nodes", "fuse_mascons", "build_features"} <= set(found)
    assert "score_skill" in found
    assert not {"simulate_granules", "simulate_mascons", "subset_granules", "read_mascons"} & set(
        found
    )


def test_a_learning_setting_reruns_nothing_before_learning(tiny_run):
    found = jobs(tiny_run, "--config", "coupling={lags_months: 3}")
    assert "correlate_series" in found
    assert not {"fit_nodes", "fuse_mascons", "build_features", "score_skill"} & set(found)


def test_who_works_inside_a_job_reruns_nothing(tiny_run):
    assert jobs(tiny_run, "--config", "compute={workers: 3}") == {}
    elsewhere = "compute={scheduler: distributed, address: slurm, workers: 3}"
    assert jobs(tiny_run, "--config", elsewhere) == {}


def test_an_edited_module_reruns_the_rules_that_list_it(tiny_run):
    module = tiny_run / "src" / "cryofuse" / "hydrology" / "lakes.py"
    before = module.read_text()
    module.write_text(before + "\n# edited\n")
    try:
        found = jobs(tiny_run)
    finally:
        module.write_text(before)
    assert "find_lakes" in found
    assert not {"fit_nodes", "filter_segments", "score_skill", "correlate_series"} & set(found)
    assert jobs(tiny_run) == {}


def test_one_more_period_runs_only_its_own_jobs_and_what_merges_them(tiny_run):
    found = jobs(tiny_run, "--config", "period={start: 2018-10, end: 2022-12, length: year}")
    assert found["simulate_granules"] == found["subset_granules"] == found["filter_segments"] == 1
    assert "fit_nodes" in found and "fuse_mascons" in found


@pytest.mark.parametrize(
    "target", ["subset", "filter_report", "elevation", "features", "coupling", "figures"]
)
def test_a_stage_is_a_target(tiny_run, target):
    assert jobs(tiny_run, target) == {}


def test_a_killed_run_resumes_with_the_same_command_and_gives_the_same_tables(tiny_run, tmp_path):
    folder = copy_project(tmp_path)
    run = subprocess.Popen(
        snakemake_command("features"),
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 240
    marker = folder / "results" / "demo" / "altimetry" / "subset"
    while time.monotonic() < deadline and run.poll() is None:
        if marker.is_dir() and len(list(marker.glob("[0-9]*.parquet"))) >= 2:
            break
        time.sleep(0.2)
    assert run.poll() is None, "the run ended before it could be killed"
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    snakemake(folder, "features")
    resumed, whole = tables(folder), tables(tiny_run)
    assert any("features" in str(path) for path in resumed)
    for path, table in resumed.items():
        if "acquire" in path.parts:
            continue  # holds the folder's own paths
        assert table.equals(whole[path]), path
