# Configuration, wildcards and the helpers that every rule file uses.
import re
import sys
import warnings
from operator import attrgetter
from os import environ, pathsep
from pathlib import Path

ROOT = Path(workflow.basedir)
if str(ROOT / "src") not in sys.path:
    sys.path.insert(0, str(ROOT / "src"))
# Jobs find the package by this where it is not installed (--sdm conda, compute nodes).
environ.update(
    PYTHONPATH=pathsep.join(
        [str(ROOT / "src"), *filter(None, [environ.get("PYTHONPATH")])]
    )
)

from cryofuse.acquire.listing import folder_digest
from cryofuse.calendar import PERIOD_PATTERN, add_months, clip_period, period_bounds
from cryofuse.config import (
    ConfigError,
    archive_files,
    load_config,
    local_cores,
    mascon_archive,
    raster_path,
)
from cryofuse.sources import PACKAGE, module_files
from cryofuse.geo import TILE_PATTERN, list_tiles, load_outline
from snakemake.exceptions import WorkflowError

try:
    CONFIG, REGIONS = load_config(dict(config), ROOT / "config" / "regions")
    CONFIG.learning.require_engine()
except ConfigError as error:
    raise WorkflowError("The configuration is wrong:", *error.problems)

REGIONAL = {name: CONFIG.for_region(region) for name, region in REGIONS.items()}
PERIODS = {name: settings.period.list() for name, settings in REGIONAL.items()}
TILES = {
    name: list_tiles(load_outline(region), CONFIG.elevation.tile_m)
    for name, region in REGIONS.items()
}
ARCHIVED = archive_files(CONFIG, REGIONS, ROOT / "config" / "regions")
GRANULE_PLAN = f"{CONFIG.download.manifest_dir}/{{region}}/{{period}}.csv"
COLLECTION_PLAN = f"{CONFIG.download.manifest_dir}/collections/{{collection}}.csv"
LOG_IN = f"{CONFIG.download.cache_dir}/log-in.txt"
HELD = f"{CONFIG.download.cache_dir}/held/{{region}}/{{period}}.txt"
REMOVED = f"{CONFIG.download.cache_dir}/removed/{{region}}/{{period}}.csv"
RASTER = raster_path(CONFIG, "{collection}")
ENVIRONMENT = str(ROOT / "envs" / "environment.yaml")


# Snakemake asks for the size of inputs that are not there yet, and Python remarks on it.
warnings.filterwarnings("ignore", message="coroutine .* was never awaited")


wildcard_constraints:
    region="|".join(REGIONS),
    period=PERIOD_PATTERN,
    tile=TILE_PATTERN,
    collection=r"[A-Za-z0-9_.@-]+",


def settings(section, *left_out):
    """Return a params function: a section of the configuration, but some keys, as plain values."""
    return lambda wildcards: attrgetter(section)(REGIONAL[wildcards.region]).model_dump(
        mode="json", exclude=set(left_out)
    )


def world_elevation(wildcards):
    """Return what the synthetic world takes of the node settings: no other key plants anew."""
    return CONFIG.elevation.model_dump(
        mode="json", include={"windows", "reference_date"}
    )


def period_months(wildcards):
    """Return a job's own months alone, so that a longer record leaves it as it is."""
    whole = REGIONAL[wildcards.region].period
    first, stop = clip_period(wildcards.period, whole.start, whole.end)
    last = add_months(stop, -1)
    return {"start": str(first)[:7], "end": str(last)[:7], "length": whole.length}


def region_settings(wildcards):
    """Return a region's settings as plain values."""
    return REGIONS[wildcards.region].model_dump(mode="json")


def region_files(*keys):
    """Return an input function: the files that a region names under these keys."""

    def files(wildcards):
        region = REGIONS[wildcards.region]
        found = []
        for key in keys:
            value = getattr(region, key)
            for item in value if isinstance(value, list) else [value]:
                path = item if isinstance(item, str) else getattr(item, "file", None)
                if path:
                    found.append(path)
        return found

    return files


# What an earlier survey of the synthetic world knew of its lakes.
PLANTED_INVENTORY = "resources/{region}/synthetic/inventory.csv"


def lake_inventory(wildcards):
    """Return the region's inventory of lakes: its own, or that of the synthetic world."""
    own = REGIONS[wildcards.region].inventory
    planted = PLANTED_INVENTORY if CONFIG.source == "synthetic" else []
    return own or planted


def lib(*modules):
    """Return the files of library modules and of all they import: a job's code as its input."""
    return [lib_path(path) for path in module_files(*modules, "logs", "provenance")]


def lib_path(path):
    """Return a file of the package as people name it from the folder of the run."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def data(name):
    """Return a table of facts that the package carries."""
    return lib_path(PACKAGE / "data" / name)


def page_files(package):
    """Return the template, style and script of a page that the package carries."""
    return [lib_path(path) for path in sorted((PACKAGE / package).glob("page.[chj]*"))]


def per_period(pattern):
    """Return an input function: a file of every period of the region."""
    return lambda wildcards: expand(
        pattern, region=wildcards.region, period=PERIODS[wildcards.region]
    )


def per_tile(pattern):
    """Return an input function: a file of every tile of the region."""
    return lambda wildcards: expand(
        pattern, region=wildcards.region, tile=TILES[wildcards.region]
    )


def every_region(*patterns):
    """Return these files for every configured region."""
    return [path.format(region=name) for path in patterns for name in REGIONS]


def every_period(pattern):
    """Return this file for every configured region and period."""
    return [
        pattern.format(region=name, period=p) for name in REGIONS for p in PERIODS[name]
    ]


def every_tile(pattern):
    """Return this file for every configured region and tile."""
    return [
        pattern.format(region=name, tile=t) for name in REGIONS for t in TILES[name]
    ]


def memory(base_mb, per_input_mb=0.0, per_thread_mb=0, size=None):
    """Return a resource function: megabytes that grow with attempt, input size and threads."""
    return _growing(base_mb, per_input_mb, per_thread_mb, size or input_mb)


def minutes(base, per_input_mb=0.0, size=None):
    """Return a resource function: minutes that grow with attempt and input size."""
    return _growing(base, per_input_mb, 0, size or input_mb)


def _growing(base, per_input_mb, per_thread, size):
    # What does not ask for inputs is known before they are made.
    if not per_input_mb:
        return lambda wildcards, attempt, threads: int(
            (base + per_thread * (threads - 1)) * attempt
        )
    return lambda wildcards, input, attempt, threads: int(
        (base + per_thread * (threads - 1) + per_input_mb * size(wildcards, input))
        * attempt
    )


def input_mb(wildcards, input):
    """Return the size of all inputs."""
    return input.size_mb


def granules_mb(wildcards, input):
    """Return the size of a period's granules: the manifest that lists them is of kilobytes."""
    from pyarrow.parquet import ParquetFile

    # Opened by Python, whose error Snakemake knows where there is no manifest yet.
    with open(input.manifest, "rb") as file:
        sizes = ParquetFile(file).read(["size_bytes"]).column("size_bytes")
    return sum(size or 0 for size in sizes.to_pylist()) / 1e6


def tile_mb(wildcards, input):
    """Return a tile's share of the segments: every tile job has the whole region's as input."""
    return input.size_mb / len(TILES[wildcards.region])


def features_mb(wildcards, input):
    """Return the size of the features: of a folder Snakemake counts the entry alone."""
    folder = Path(input.features)
    if not folder.is_dir():
        raise FileNotFoundError(2, "No features yet", input.features)
    return sum(path.stat().st_size for path in folder.rglob("*.parquet")) / 1e6


# What the JVM of a Spark driver takes beside Python, and the cores of local[*].
SPARK_MB, SPARK_THREADS = 3000, 8


def on_spark(*modules):
    """Return modules that a job runs with Spark alone: with the default engine none."""
    return modules if CONFIG.learning.engine == "spark" else ()


def learning_engine(wildcards):
    """Return the engine of the learning; where Spark runs decides no results."""
    return {"engine": CONFIG.learning.engine}


def learning_threads(threads):
    """Return a job's threads; under a local Spark master the cores that it works on."""
    if CONFIG.learning.engine != "spark":
        return threads
    return local_cores(CONFIG.learning.master, SPARK_THREADS) or threads


def learning_memory(base_mb):
    """Return a job's megabytes, with those of a Spark driver where it has one."""
    return base_mb + (SPARK_MB if CONFIG.learning.engine == "spark" else 0)


def region_area(wildcards):
    """Return where a region is, as plain values: all that its granules depend on."""
    return REGIONS[wildcards.region].model_dump(
        mode="json", include={"title", "crs", "outline"}
    )


def unplanned_periods():
    """Return the pattern of a period without a plan, in the folder of its region."""
    return _one_of(
        f"(?<=/{re.escape(name)}/){period}"
        for name, period in region_periods()
        if not Path(GRANULE_PLAN.format(region=name, period=period)).exists()
    )


def unplanned_collections():
    """Return the pattern of a collection without a plan."""
    return _one_of(
        re.escape(key)
        for key in ARCHIVED
        if not Path(COLLECTION_PLAN.format(collection=key)).exists()
    )


def _one_of(patterns):
    # What matches nothing, where there are none.
    return "|".join(patterns) or "(?!)"


def region_periods():
    """Return every region with each of its periods."""
    return [(name, period) for name in REGIONS for period in PERIODS[name]]


def archive_file(key):
    """Return a file of the archive as plain values."""
    file = ARCHIVED[key]
    return {
        "short_name": file.short_name,
        "version": file.version,
        "pattern": file.pattern,
    }


def raster_files():
    """Return the masks and models that are fetched."""
    mascons = mascon_archive(CONFIG).key
    return [RASTER.format(collection=key) for key in ARCHIVED if key != mascons]


def forbid_travelling_secrets():
    """Refuse credentials in variables where jobs are sent away: schedulers send variables along."""
    named = [
        name for name in ("EARTHDATA_TOKEN", "EARTHDATA_PASSWORD") if environ.get(name)
    ]
    if named:
        raise WorkflowError(
            f"{' and '.join(named)} would go to the nodes with every job: unset, and write the "
            "credentials into ~/.netrc"
        )


def shared_subsets(region, period):
    """Return the subsets that need a period's raw granules: those of every region."""
    first, stop = period_bounds(period)
    found = []
    for name, other in region_periods():
        begin, end = period_bounds(other)
        if begin < stop and first < end:
            found.append(f"results/{name}/altimetry/subset/{other}.parquet")
            found.append(f"results/{name}/altimetry/ledger/subset/{other}.parquet")
    return found


def held_granules(wildcards):
    """Return the mark that a period's raw granules are in the cache, where they are fetched."""
    return HELD.format(**wildcards) if CONFIG.source == "earthdata" else []


def removed_granules():
    """Return the records of removed granules, where they are removed."""
    if CONFIG.source != "earthdata" or CONFIG.download.keep_raw:
        return []
    return every_period(REMOVED)


def mascon_file(region):
    """Return a region's mascon file: the user's, the synthetic one, or the one fetched."""
    if CONFIG.source == "local":
        return CONFIG.local.mascons_file
    end = "h5" if CONFIG.mascons.product == "gsfc" else "nc"
    if CONFIG.source == "synthetic":
        return f"resources/{region}/synthetic/mascons.{end}"
    return f"{CONFIG.download.cache_dir}/mascons/{CONFIG.mascons.product}.{end}"


def mascon_plan():
    """Return the plan of the mascon file, where it comes from a collection."""
    if CONFIG.mascons.product != "jpl":
        return []
    return COLLECTION_PLAN.format(collection=mascon_archive(CONFIG).key)


def plain_files():
    """Return the files that come without a log-in: their addresses by the rule's output."""
    product, plain = CONFIG.mascons.product, CONFIG.download.plain
    if CONFIG.source != "earthdata" or product == "jpl":
        return {}
    keys = {"mascons": product}
    if product == "csr":
        keys |= {"land_mask": "csr_land_mask", "mapping": "csr_mapping"}
    return {
        name: {"key": key, "url": url}
        for name, key in keys.items()
        if (url := getattr(plain, key))
    }


def mascon_companions(region):
    """Return the files that a product keeps beside its mascon file: CSR's mask and mapping."""
    if CONFIG.mascons.product != "csr":
        return {}
    if CONFIG.source == "local":
        files = {
            "land_mask": CONFIG.local.land_mask_file,
            "mapping": CONFIG.local.mapping_file,
        }
        return {name: path for name, path in files.items() if path}
    if CONFIG.source == "synthetic":
        folder = f"resources/{region}/synthetic"
        return {
            "land_mask": f"{folder}/land_mask.nc",
            "mapping": f"{folder}/mapping.nc",
        }
    folder = f"{CONFIG.download.cache_dir}/mascons"
    names = [name for name in plain_files() if name != "mascons"]
    return {name: f"{folder}/csr_{name}.nc" for name in names}


def mascon_inputs(wildcards):
    """Return the mascon file and what the product keeps beside it."""
    region = wildcards.region
    return {"mascons": mascon_file(region), **mascon_companions(region)}


def mascon_kind(wildcards):
    """Return what the mascons of a region are: whose, and of which unit."""
    product = REGIONAL[wildcards.region].mascons.product
    return {"product": product, "unit": CONFIG.fusion.unit}


def saved_models(wildcards):
    """Return the folder of saved models that is applied: the one named, or the run's own."""
    return CONFIG.predict.models or f"results/{wildcards.region}/models"


FIGURES = {
    "altimetry": ["rate_map", "amplitude_map", "coverage", "filter_costs"],
    "maps": [
        "regime_map",
        "skill_map",
        "explained_map",
        "coupling_map",
        "lead_lag_map",
        "lakes_map",
    ],
    "series": ["mascon_series", "totals", "sheet_coupling", "case_study"],
    "learning": [
        "skill_bars",
        "learning_curve",
        "predicted_observed",
        "importance",
        "calibration",
        "regime_selection",
    ],
    "applications": ["rapid_melt", "early_warning", "sensitivity"],
}
FIGURE_TITLES = {
    "altimetry": "1 Elevation change",
    "maps": "2 Maps",
    "series": "3 Series",
    "learning": "4 Learning",
    "applications": "5 Applications",
}


def figure_files(group):
    """Return a group's figures as named outputs: the PNG in the report, the PDF beside it."""
    named = {}
    for name in FIGURES[group]:
        named[f"{name}_png"] = report(
            f"results/{{region}}/figures/{name}.png",
            caption=f"../report/{name}.rst",
            category=FIGURE_TITLES[group],
            labels={"figure": name.replace("_", " "), "region": "{region}"},
        )
        named[f"{name}_pdf"] = f"results/{{region}}/figures/{name}.pdf"
    return named


# The planted truth is one of mascons.
HAS_TRUTH = CONFIG.source == "synthetic" and CONFIG.fusion.unit == "mascon"


def validation_file(wildcards):
    """Return the recovery of the truth, where there is a truth."""
    path = f"results/{wildcards.region}/validation.json"
    return {"validation": path} if HAS_TRUTH else {}
