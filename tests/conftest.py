"""Fixtures shared by all tests: the folder of real files, and one tiny run of the whole DAG."""

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest
import yaml

ROOT = Path(__file__).parents[1]


def skip_without(reason: str) -> NoReturn:
    """Skip a test for what it needs and lacks; in CI nothing may lack, and it fails."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def real_data() -> Path:
    return (ROOT / os.environ.get("CRYOFUSE_REAL_DATA", "../shared/real")).resolve()


@pytest.fixture(scope="session")
def real_folder() -> Path:
    """The folder of real files; without it tests skip, but never in CI."""
    folder = real_data()
    if not folder.is_dir():
        skip_without(f"no folder of real files at {folder} (set CRYOFUSE_REAL_DATA)")
    return folder


PROJECT_PARTS = ("Snakefile", "slurm", "config", "envs", "profiles", "src", "workflow")


def copy_project(folder: Path) -> Path:
    """Copy what a run needs into a folder of its own, so that a test may edit it."""
    for name in PROJECT_PARTS:
        source = ROOT / name
        if source.is_dir() and not source.is_symlink():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("*.egg-info"))
        else:
            shutil.copy(source, folder / name, follow_symlinks=False)
    shutil.copy(ROOT / "tests" / "e2e" / "tiny.yaml", folder / "tiny.yaml")
    return folder


def choose_product(folder: Path, product: str) -> None:
    """Let the tiny world of a copied project be seen by another centre's mascons."""
    config = yaml.safe_load((folder / "tiny.yaml").read_text())
    select = {"rule": "ice_fraction_of_land", "min": 0.5}
    config["mascons"] = {"product": product, "select": select}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(config))


def snakemake_command(*arguments: str, config: str = "tiny.yaml") -> list[str]:
    """The command a user types in the project's root."""
    profile = ["--profile", "profiles/local", "--cores", "2", "--configfile", config]
    # Targets come first: --configfile takes every word that follows it.
    return [sys.executable, "-m", "snakemake", *arguments, *profile]


def snakemake(folder: Path, *arguments: str, config: str = "tiny.yaml", check: bool = True):
    """Run Snakemake in a copy of the project; on failure show what it said."""
    done = subprocess.run(
        snakemake_command(*arguments, config=config),
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    if check and done.returncode:
        raise AssertionError(f"it ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory) -> Path:
    """A copy of the project in which the whole chain has run on the tiny world.

    Workers that run side by side share one run; each has a copy of its own, which it may change.
    """
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    run, done = shared / "tiny-run", shared / "tiny-run.done"
    with (shared / "tiny-run.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(run, ignore_errors=True)
            run.mkdir()
            snakemake(copy_project(run))
            done.touch()
    return shutil.copytree(run, tmp_path_factory.mktemp("tiny") / "run", symlinks=True)
