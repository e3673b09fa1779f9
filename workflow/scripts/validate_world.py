"""Adapter of rule validate_world: truth and results in, validation.json out."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from cryofuse.config import ElevationSettings, PeriodSettings, RegionSettings, WorldSettings
from cryofuse.logs import job_log
from cryofuse.products.validation import validate
from cryofuse.provenance import provenance
from cryofuse.simulate.world import World
from cryofuse.tables import read_table, written

#: Result table of each input of the rule.
INPUTS = {
    "nodes": "nodes",
    "mascons": "mascons",
    "fusion": "mascon_months",
    "causal": "mascon_months_causal",
    "coupling": "coupling",
    "regimes": "regime_nodes",
    "lakes": "lakes",
    "lake_events": "lake_events",
    "scores": "scores",
    "predictions": "predictions",
    "totals": "totals",
    "sea_level": "sea_level",
    "case_study": "case_study",
    "rapid_melt": "rapid_melt",
    "rapid_melt_rates": "rapid_melt_rates",
}


def main(snakemake: Any) -> None:
    """Compare the run with its planted truth."""
    with job_log(snakemake.log[0]) as log:
        params = snakemake.params
        world = World(
            WorldSettings.model_validate(params.world),
            RegionSettings.model_validate(params.region),
            PeriodSettings.model_validate(params.period),
            ElevationSettings.model_validate(params.elevation),
        )
        folder = Path(snakemake.input.truth)
        truth = {path.stem: read_table(path) for path in sorted(folder.glob("*.parquet"))}
        results = {}
        for name, table in INPUTS.items():
            given = snakemake.input.get(name)
            if given is not None:
                paths = [given] if isinstance(given, str) else list(given)
                results[table] = pd.concat([read_table(p) for p in paths], ignore_index=True)
        metrics = validate(
            truth, results, world, params.case_study["months"], params.skill["coverage"]
        )
        for metric in metrics:
            if metric["holds"] is False:
                log.warning("%(metric)s does not hold: %(value)s (%(tolerance)s)", metric)
        header = folder / "world.json"
        content = {
            "world": json.loads(header.read_text()) if header.is_file() else {},
            "provenance": provenance(snakemake),
            "holds": sum(metric["holds"] is True for metric in metrics),
            "does_not_hold": sum(metric["holds"] is False for metric in metrics),
            "metrics": metrics,
        }
        with written(snakemake.output[0]) as temporary:
            temporary.write_text(json.dumps(content, indent=1, allow_nan=False, default=str) + "\n")


if __name__ == "__main__":
    main(snakemake)
