"""The locks, the conda environment and pyproject.toml say the same."""

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
# Names that conda-forge spells differently.
CONDA = {"xgboost-cpu": "py-xgboost-cpu", "netcdf4": "netcdf4"}


def parse(requirement):
    name, spec = re.match(r"([A-Za-z0-9_.-]+?)(?:\[[^\]]*\])?([<>=!~].*)?$", requirement).groups()
    return name.lower(), spec or ""


def test_the_conda_environment_is_in_step_with_pyproject():
    listed = yaml.safe_load((ROOT / "envs" / "environment.yaml").read_text())["dependencies"]
    (pip,) = (item["pip"] for item in listed if isinstance(item, dict))
    conda = dict(parse(item) for item in [*listed, *pip] if isinstance(item, str))
    # It installs what the other channel lacks.
    assert conda.pop("pip") == ""
    assert conda.pop("python") == PROJECT["requires-python"]
    wanted = dict(parse(item) for item in PROJECT["dependencies"])
    assert conda == {CONDA.get(name, name): spec for name, spec in wanted.items()}


def test_the_locks_hold_every_dependency_with_hashes_and_no_address():
    for name, requirements in (
        ("lock.txt", PROJECT["dependencies"]),
        ("lock-dev.txt", PROJECT["dependencies"] + EXTRAS["dev"]),
        ("lock-engines.txt", PROJECT["dependencies"] + EXTRAS["dev"] + EXTRAS["spark"]),
    ):
        text = (ROOT / "envs" / name).read_text()
        assert "://" not in text
        pinned = re.findall(
            r"^([a-z0-9._-]+)(?:\[[^\]]*\])?==", text, flags=re.MULTILINE | re.IGNORECASE
        )
        normal = {re.sub(r"[-_.]+", "-", item).lower() for item in pinned}
        for requirement in requirements:
            assert re.sub(r"[-_.]+", "-", parse(requirement)[0]) in normal, requirement
        blocks = re.split(r"\n(?=[a-z0-9])", text)
        assert all("--hash=sha256:" in block for block in blocks if "==" in block)


def test_the_tests_lock_agrees_with_the_runs_lock():
    def pins(name):
        text = (ROOT / "envs" / name).read_text()
        return set(re.findall(r"^([a-z0-9._-]+==[^ ;\\]+)", text, flags=re.MULTILINE))

    assert pins("lock.txt") <= pins("lock-dev.txt") <= pins("lock-engines.txt")


def test_spark_is_in_no_install_but_that_of_the_engines():
    for name in ("lock.txt", "lock-dev.txt"):
        assert "pyspark" not in (ROOT / "envs" / name).read_text()
