"""The learning stage as a Spark application of its own, outside Snakemake.

    spark-submit --master spark://host:7077 src/cryofuse/learning/spark/submit.py skill
        --configfile config/demo.yaml --region demo

It does what the rules ``score_skill`` and ``cluster_regimes`` do with ``learning.engine: spark``,
by their own scripts: the same configuration, the same inputs and tables by the same names.
"""

from __future__ import annotations

import argparse
import runpy
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml
from snakemake.utils import update_config

from cryofuse.config import Config, ConfigError, RegionSettings, load_config
from cryofuse.geo import list_tiles, load_outline
from cryofuse.learning.spark.session import open_session
from cryofuse.logs import UserError

#: The project: configuration, regions and scripts.
ROOT = Path(__file__).resolve().parents[4]
#: Memory of the job in the messages of its workers (MB); that of Spark is spark-submit's.
MEMORY_MB = 3000
#: How long it may wait for workers of its own (minutes).
RUNTIME_MIN = 60


class _Named(SimpleNamespace):
    """Names and their values, as Snakemake hands them to a script."""

    def __iter__(self) -> Iterator[Any]:
        return iter(vars(self).values())

    def items(self) -> Any:
        return vars(self).items()


def read_config(files: Sequence[str | Path]) -> dict[str, Any]:
    """Return the defaults with the files of a run laid over them, and Spark for the engine."""
    content: dict[str, Any] = {}
    for path in (ROOT / "config" / "config.yaml", *files):
        try:
            update_config(content, yaml.safe_load(Path(path).read_text()) or {})
        except (OSError, yaml.YAMLError) as error:
            raise UserError(f"{path}: cannot be read as configuration: {error}") from None
    update_config(content, {"learning": {"engine": "spark"}})
    return content


def make_job(
    stage: str, content: dict[str, Any], region: str, results: Path, output: Path, threads: int
) -> tuple[str, Any]:
    """Return the script of a stage, and the job that Snakemake would hand to it.

    Parameters
    ----------
    stage
        ``skill`` or ``regimes``.
    content
        Configuration of :func:`read_config`.
    region
        Name of the region.
    results, output
        Folder that holds the inputs below the region's name, and folder for the tables.
    threads
        Threads for what does not run on Spark.

    Raises
    ------
    ConfigError
        Where the configuration is wrong.
    UserError
        Where an input is missing.
    """
    config, regions = load_config(content | {"regions": [region]}, ROOT / "config" / "regions")
    regional = config.for_region(regions[region])
    build = {"skill": _skill, "regimes": _regimes}[stage]
    script, inputs, names, params = build(regional, regions[region], results / region)
    missing = [path for path in _flat(inputs.values()) if not Path(path).exists()]
    if missing:
        raise UserError(f"{missing[0]} is missing: run Snakemake up to it, or name --results")
    folder = output / region / stage
    job = SimpleNamespace(
        input=_Named(**inputs),
        output=_Named(**{key: str(folder / name) for key, name in names.items()}),
        params=_Named(
            learning={"engine": "spark"}, region=regions[region].model_dump(mode="json"), **params
        ),
        wildcards=_Named(region=region),
        config=content,
        threads=threads,
        resources=SimpleNamespace(mem_mb=MEMORY_MB, runtime=RUNTIME_MIN),
        log=[None],
        rule=f"{script} (spark-submit)",
    )
    return script, job


def _skill(config: Config, region: RegionSettings, folder: Path) -> tuple[str, Any, Any, Any]:
    inputs = {
        "features": str(folder / "features"),
        "mascons": str(folder / "gravimetry" / "mascons.parquet"),
    }
    names = {
        "scores": "scores.parquet",
        "predictions": "predictions.parquet",
        "table": "table.md",
        "table_csv": "table.csv",
    }
    return "score_skill", inputs, names, {"skill": config.skill.model_dump(mode="json")}


def _regimes(config: Config, region: RegionSettings, folder: Path) -> tuple[str, Any, Any, Any]:
    tiles = list_tiles(load_outline(region), config.elevation.tile_m)
    inputs = {
        "nodes": [str(folder / "altimetry" / "nodes" / f"{tile}.parquet") for tile in tiles],
        "mascons": str(folder / "gravimetry" / "mascons.parquet"),
    }
    names = {name: f"{name}.parquet" for name in ("nodes", "mascons", "centroids", "stability")}
    return "cluster_regimes", inputs, names, {"regimes": config.regimes.model_dump(mode="json")}


def _flat(values: Any) -> Iterator[str]:
    for value in values:
        yield from [value] if isinstance(value, str) else value


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a stage in the session that ``spark-submit`` opens."""
    parser = argparse.ArgumentParser(prog="submit.py", description="Run a learning stage on Spark.")
    parser.add_argument("stage", choices=["skill", "regimes"])
    parser.add_argument("--configfile", nargs="+", default=[], help="laid over config/config.yaml")
    parser.add_argument("--region", required=True)
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of inputs")
    parser.add_argument("--output", type=Path, help="folder for the tables (default: --results)")
    parser.add_argument("--threads", type=int, default=2, help="threads for what is not Spark's")
    given = parser.parse_args(arguments)
    try:
        script, job = make_job(
            given.stage,
            read_config(given.configfile),
            given.region,
            given.results,
            given.output or given.results,
            given.threads,
        )
        run = runpy.run_path(str(ROOT / "workflow" / "scripts" / f"{script}.py"))["main"]
        # The script finds this session and uses it: its master is the one of spark-submit.
        with open_session(None, f"{given.stage} of {given.region}", given.threads, MEMORY_MB):
            run(job)
    except (ConfigError, UserError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
