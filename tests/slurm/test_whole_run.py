"""The whole chain through Slurm: the tables of a run on one machine."""

import re

import pytest

from tests.earthdata import QUARTER, assert_same_tables
from tests.slurm.project import SlurmProject
from tests.workflow.test_resources import HEAVY

RUNS = ("whole",)


@pytest.mark.parametrize("local", [False, True], ids=["jobs", "workers of local jobs"])
def test_credentials_in_variables_are_refused(slurm, runs, tmp_path, local):
    workers = {"compute": {"scheduler": "distributed", "address": "slurm"}} if local else {}
    run = SlurmProject(tmp_path / "refused", period=QUARTER, **workers)
    said = run.start("all", local=local, EARTHDATA_TOKEN="tasiilaq-token").finish(fails=True)
    assert "EARTHDATA_TOKEN would go to the nodes with every job" in said
    assert "tasiilaq" not in said and "Traceback" not in said
    assert run.jobs(slurm) == [] and not (run.folder / "results").exists()


def test_the_tables_are_those_of_one_machine(runs):
    runs["local"].start("all", local=True).finish()
    runs["whole"].finish()
    found, expected = runs["whole"].tables(), runs["local"].tables()
    assert len(expected) > 40
    assert_same_tables(found, expected)


def test_only_heavy_rules_went_to_nodes_and_both_were_used(runs, slurm):
    said = runs["whole"].finish()
    jobs = runs["whole"].jobs(slurm)
    assert {job.rule for job in jobs} == HEAVY
    assert {job.node for job in jobs} == set(slurm.partitions["main"])
    assert {job.state for job in jobs} == {"COMPLETED"}
    sent = {int(n) for n in re.findall(r"submitted with SLURM jobid (\d+)", said)}
    assert sent == {int(job.number) for job in jobs}


def test_a_rule_that_was_given_two_threads_had_two(runs, slurm):
    """Its tables are those of the job alone, which the run on one machine has."""
    fits = [job for job in runs["whole"].jobs(slurm) if job.rule == "fit_nodes"]
    assert fits
    for job in fits:
        assert "NumCPUs=2" in slurm.scontrol("show", "job", job.number)


def test_temporary_files_went_to_a_folder_of_each_job(runs, slurm):
    """None of a light rule, which runs outside of any job."""
    scratch = runs["whole"].folder.parent / "scratch"
    made = {path.name for path in scratch.iterdir()}
    assert made == {f"job_{job.number}" for job in runs["whole"].jobs(slurm)}


def test_logs_of_jobs_that_went_well_are_gone(runs):
    logs = runs["whole"].folder / "logs" / "slurm"
    assert not list(logs.rglob("*.log"))
