"""What the model of a cluster takes the rules to ask for (benchmarks/nodes.py) is what they ask."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from benchmarks import nodes
from cryofuse.config import RegionSettings
from cryofuse.geo import list_tiles, load_outline
from tests.conftest import ROOT
from tests.workflow.test_resources import PROFILE, asked, load_rules


@pytest.fixture(scope="module")
def local_source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("local")
    (folder / "atl06").mkdir()
    (folder / "mascons.nc").touch()
    files = {"atl06_dir": str(folder / "atl06"), "mascons_file": str(folder / "mascons.nc")}
    return load_rules(folder, regions="demo", source="local", local=files)


def test_jobs_are_laid_with_what_their_rules_ask_for(local_source, tmp_path):
    rules, local = local_source
    pq.write_table(pa.table({"size_bytes": [3_000_000_000]}), tmp_path / "m.parquet")
    region = yaml.safe_load((ROOT / "config" / "regions" / "demo.yaml").read_text())
    tiles = len(list_tiles(load_outline(RegionSettings.model_validate(region)), nodes.TILE_M))
    profile = yaml.safe_load(PROFILE.read_text())
    for name, expected in nodes.ASKED.items():
        given = {"size_mb": 3000.0, "manifest": str(tmp_path / "m.parquet")}
        assert expected.local == (name in local), name
        assert expected.cores == profile["set-threads"].get(name, 1), name
        memory_mb = asked(rules[name], "mem_mb", threads=expected.cores, **given)
        assert expected.memory_mb == memory_mb, name
        size_mb = 3000.0 / tiles if name == "fit_nodes" else 3000.0
        minutes = int(expected.minutes + expected.minutes_mb * size_mb)
        assert minutes == asked(rules[name], "runtime", **given), name


def test_the_profile_hands_over_as_many_jobs_as_the_model():
    profile = yaml.safe_load(PROFILE.read_text())
    assert profile["jobs"] == nodes.SLURM_JOBS
    assert profile["local-cores"] == nodes.LOCAL_CORES


def test_on_one_machine_every_job_of_the_run_takes_one_core(local_source):
    """Shares of core-time add up only then."""
    rules, _ = local_source
    profile = yaml.safe_load((ROOT / "profiles" / "local" / "config.yaml").read_text())
    assert "set-threads" not in profile
    assert {rules[name].resources["_cores"].value for name in nodes.ASKED} == {1}
