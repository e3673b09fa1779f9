"""A copy of the project that fetches a small synthetic world from the archive on loopback."""

import contextlib
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import yaml

from cryofuse.config import ElevationSettings, PeriodSettings, RegionSettings, WorldSettings
from cryofuse.simulate.granules import write_granules
from cryofuse.simulate.mascons import plant_mass, write_mascons
from cryofuse.simulate.world import World
from tests.archive import LoopbackArchive
from tests.conftest import ROOT, copy_project, snakemake_command

PERIOD = {"start": "2018-10", "end": "2020-12", "length": "year"}
#: Three periods of a few granules, for what needs no learning.
QUARTER = {"start": "2018-10", "end": "2018-12", "length": "month"}
MONTHS = ["2018-10", "2018-11", "2018-12"]
MASCONS = "TELLUS_GRAC-GRFO_MASCON_CRI_GRID_RL06.3_V4"
MASCON_FILE = "GRCTellus.JPL.200204_202012.nc"
CACHE = Path("resources", "earthdata")
_ENVIRONMENT = ("EARTHDATA_TOKEN", "EARTHDATA_USERNAME", "EARTHDATA_PASSWORD", "NETRC")


def merged(base, over):
    """Merge as an overlay does: mappings are merged, all else is replaced."""
    both = {
        key: merged(base[key], value)
        if isinstance(value, dict) and isinstance(base.get(key), dict)
        else value
        for key, value in over.items()
    }
    return {**base, **both}


def small_config():
    """The tiny world of the end-to-end tests, thinner and shorter."""
    tiny = yaml.safe_load((ROOT / "tests" / "e2e" / "tiny.yaml").read_text())
    thin = {"period": PERIOD, "world": {"track_step": 12, "segment_step": 60}}
    return merged(tiny, thin)


class Source:
    """What the archive serves: granules and mascon files of the small world."""

    def __init__(self, folder):
        config = small_config()
        shipped = yaml.safe_load((ROOT / "config" / "regions" / "demo.yaml").read_text())
        region = RegionSettings.model_validate({**shipped, **config["region_settings"]["demo"]})
        region = region.model_copy(update={"coast": str(ROOT / shipped["coast"])})
        elevation = {"windows": config["elevation"]["windows"]}
        self.world = World(
            WorldSettings.model_validate(config["world"]),
            region,
            PeriodSettings.model_validate(PERIOD),
            ElevationSettings.model_validate(elevation),
        )
        self.folder = folder
        self.granule_folder = folder / "atl06"
        self.mascons = folder / MASCON_FILE

    def write(self):
        for year in ("2018", "2019", "2020"):
            first = np.datetime64(f"{max(f'{year}-01', '2018-10')}-01", "us")
            stop = np.datetime64(f"{int(year) + 1}-01-01", "us")
            write_granules(self.world, self.granule_folder / year, first, stop)
        write_mascons(plant_mass(self.world, "jpl"), self.mascons)
        return self

    def write_product(self, product, folder):
        """Write another centre's mascon file; CSR's mask and mapping beside."""
        folder.mkdir(parents=True, exist_ok=True)
        end = "h5" if product == "gsfc" else "nc"
        beside = [folder / "land_mask.nc", folder / "mapping.nc"] if product == "csr" else []
        write_mascons(plant_mass(self.world, product), folder / f"{product}.{end}", *beside)
        return folder / f"{product}.{end}"

    def granules(self, *months):
        """Return the granules that start in these months, or all."""
        found = sorted(self.granule_folder.glob("*/ATL06_*.h5"), key=lambda path: path.name)
        starts = tuple(f"ATL06_{month.replace('-', '')}" for month in months)
        return [path for path in found if path.name.startswith(starts or "ATL06_")]

    def serve(self, *months, **options):
        """Return an archive of the granules and of JPL's mascon file, to be entered."""
        archive = LoopbackArchive(self.folder, **options)

        @contextlib.contextmanager
        def served():
            with archive:
                archive.add_collection("ATL06", "006", self.granules(*months))
                archive.add_collection(MASCONS, "RL06.3Mv04", [self.mascons], provider="POCLOUD")
                yield archive

        return served()


class Project:
    """A copy of the project whose configuration points to an archive."""

    def __init__(self, folder, archive, **config):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = copy_project(folder)
        system = {"system": archive.system(), "trusted_hosts": ["127.0.0.1", "localhost"]}
        quick = {"backoff_s": 0.05, "max_wait_s": 2.0, "tries": 3, "timeout_s": 20.0}
        self.config = small_config() | {"source": "earthdata"}
        self.configure(download=system | quick)
        self.configure(**config)
        self.environment = {
            key: value for key, value in os.environ.items() if key not in _ENVIRONMENT
        } | {"EARTHDATA_TOKEN": archive.token, "HOME": str(folder.parent)}

    def configure(self, **config):
        self.config = merged(self.config, config)
        (self.folder / "tiny.yaml").write_text(yaml.safe_dump(self.config))

    def run(self, *arguments, check=True):
        """Run Snakemake; what it said, on the terminal and in order, is ``stdout``."""
        done = subprocess.run(
            snakemake_command(*arguments),
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(f"it ended with {done.returncode}:\n{done.stdout}")
        return done

    def refused(self, *arguments):
        """Return what a run says that must fail, without a traceback on the terminal."""
        done = self.run(*arguments, check=False)
        assert done.returncode != 0, done.stdout
        assert "Traceback" not in done.stdout, done.stdout
        return done.stdout

    def jobs(self, *arguments):
        """Return the jobs that a dry run would start: rule → count."""
        shown = self.run(*arguments, "-n", "--quiet", "host").stdout
        table = re.findall(r"^(\w+)\s+(\d+)$", shown, flags=re.MULTILINE)
        return {rule: int(count) for rule, count in table if rule not in ("total", "all")}

    @property
    def cached(self):
        """The complete raw granules in the cache, by name."""
        folder = self.folder / CACHE / "atl06"
        return {path.name: path for path in folder.glob("[!.]*")}

    def receipts(self, region="demo"):
        folder = self.folder / "results" / region / "acquire" / "atl06"
        return pd.concat(
            [pq.ParquetFile(path).read().to_pandas() for path in sorted(folder.glob("*.parquet"))],
            ignore_index=True,
        )

    def tables(self, *folders, region="demo"):
        """Return Parquet files (all, or of some folders) as tables, by their place."""
        results = self.folder / "results" / region
        return {
            str(path.relative_to(results)): pq.ParquetFile(path).read()
            for folder in folders or (".",)
            for path in sorted((results / folder).rglob("*.parquet"))
            if "acquire" not in path.relative_to(results).parts
        }

    def share_plan(self, other):
        """Take another project's manifests, older than any code."""
        shutil.copytree(other.folder / "manifests", self.folder / "manifests")
        for path in self.folder.glob("manifests/*/*.csv"):
            os.utime(path, (0, 0))

    def plan(self, period, region="demo"):
        return self.folder / "manifests" / region / f"{period}.csv"

    def log(self, rule, period, region="demo"):
        return (self.folder / "logs" / region / rule / f"{period}.log").read_text()


def assert_same_tables(found, expected):
    """Tables are equal in names, schema, order and every value."""
    assert found.keys() == expected.keys()
    assert found
    for name, table in found.items():
        assert table.schema.equals(expected[name].schema), name
        pd.testing.assert_frame_equal(
            table.to_pandas(), expected[name].to_pandas(), check_exact=True, obj=name
        )


def asked(archive, scope):
    """Return the names of the requests of a kind, in order."""
    return [entry.name for entry in archive.log if entry.scope == scope]
