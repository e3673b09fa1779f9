"""Every shipped configuration and profile, without running a job."""

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from cryofuse.sources import module_files
from tests.dry_runs import type_snakemake

ROOT = Path(__file__).parents[2]


@cache
def run(*arguments):
    return type_snakemake(arguments)


def count_jobs(text):
    found = re.search(r"^total\s+(\d+)$", text, flags=re.MULTILINE)
    assert found, text
    return int(found.group(1))


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """A folder with no results, so that a dry run plans everything."""
    return str(tmp_path_factory.mktemp("fresh"))


@pytest.mark.parametrize(
    "arguments",
    [
        ("--configfile", "config/demo.yaml"),
        ("--config", "regions=greenland"),
        ("--config", "regions=antarctica"),
        ("--config", "regions=vatnajokull"),
        ("--config", "regions=[greenland,vatnajokull]"),
        ("--config", "regions=antarctica", "source=synthetic"),
        ("--config", "regions=demo", "source=synthetic", "mascons={product: csr}"),
        ("--config", "regions=demo", "source=synthetic", "mascons={product: gsfc}"),
        ("--config", "mascons={product: csr}"),
        ("--config", "mascons={product: gsfc}", "download={subset: harmony}"),
        ("--config", "regions=[greenland,vatnajokull]", "download={keep_raw: false}"),
    ],
    ids=" ".join,
)
def test_every_shipped_configuration_plans_a_whole_run(fresh, arguments):
    done = run("-n", "--quiet", "host", "--directory", fresh, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert count_jobs(done.stdout) > 20


def test_basins_plan_a_whole_run_without_a_truth_of_mascons(fresh, tmp_path):
    basins = tmp_path / "basins.geojson"
    basins.touch()
    arguments = ("-n", "--quiet", "host", "--directory", fresh, "--configfile", "config/demo.yaml")
    keys = ("fusion={unit: basin}", f"region_settings={{demo: {{basins: {basins}}}}}")
    done = run(*arguments, "--config", *keys)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "write_summary" in done.stdout and "validate_world" not in done.stdout
    assert str(basins) in run("-n", *arguments[3:], "--config", *keys).stdout
    done = run(*arguments, "--config", keys[0])
    assert "unit: basin needs the region's key basins" in done.stdout + done.stderr


def test_atl11_without_a_folder_is_told_in_a_line(fresh):
    done = run("-n", "--directory", fresh, "--config", "altimetry={product: atl11}")
    said = (done.stdout + done.stderr).splitlines()
    assert done.returncode != 0
    assert sum("atl11 files are read with source: local only" in line for line in said) == 1


@pytest.mark.parametrize(
    "keys",
    [
        ("regions=greenland",),
        ("download={keep_raw: false}",),
        ("region_settings={greenland: {ice_mask: {file: 'earthdata:IDBMG4', variable: mask}}}",),
    ],
    ids=" ".join,
)
def test_greenland_at_defaults_is_under_a_thousand_jobs(fresh, keys):
    done = run("-n", "--quiet", "host", "--directory", fresh, "--config", *keys)
    assert count_jobs(done.stdout) < 1000
    kept = "keep_raw" not in " ".join(keys)
    assert ("remove_granules" in done.stdout) is not kept
    assert ("download_raster" in done.stdout) is ("ice_mask" in " ".join(keys))


def test_swapping_the_region_swaps_every_path(fresh):
    config = ("--config", "regions=antarctica")
    done = run("-n", "--quiet", "host", "--directory", fresh, *config)
    assert "results/antarctica/" in done.stdout
    assert "greenland" not in done.stdout


def test_profile_slurm_works_as_typed_from_the_root(fresh):
    typed = ["--profile", "slurm", "-n", "--quiet", "host", "--directory", fresh]
    command = [sys.executable, "-m", "snakemake", *typed]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_wrong_configuration_stops_at_parse_with_a_line_for_each_mistake(fresh):
    done = run(
        "-n",
        "--directory",
        fresh,
        "--config",
        "regions=atlantis",
        "elevation={search_radius_m: 1}",
        "period={start: 2020-01, end: 2019-01}",
        "nonsense=1",
    )
    assert done.returncode != 0
    said = (done.stdout + done.stderr).splitlines()
    for expected in ("atlantis", "search_radius_m", "is before start", "nonsense: unknown key"):
        assert sum(expected in line for line in said) == 1, (expected, said)
    assert not any("Traceback" in line for line in said)


def test_the_workflow_passes_snakemakes_lint(fresh):
    done = run("--lint", "--directory", fresh, "--configfile", "config/demo.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_code_that_reads_credentials_runs_where_snakemake_runs():
    """Every rule whose code can log in is a local rule: no executor sends it to a node."""
    text = "\n".join(path.read_text() for path in sorted((ROOT / "workflow/rules").glob("*.smk")))
    named = re.findall(r"^ *localrules:\n((?: +\w+,\n)+)", text, flags=re.MULTILINE)
    local = set(re.findall(r"\w+", "".join(named)))
    able = set()
    for block in re.split(r"^(?= *rule \w+:)", text, flags=re.MULTILINE)[1:]:
        listed = re.search(r"lib=lib\(([^)]*)\)", block)
        modules = re.findall(r'"([^"]+)"', listed[1]) if listed else []
        if any(path.name == "credentials.py" for path in module_files(*modules)):
            able.add(re.match(r" *rule (\w+)", block)[1])
    assert {"plan_granules", "plan_collection", "download_granules", "download_mascons"} <= able
    assert able <= local, able - local
