"""Adapter of rule write_summary: the region's tables in, one page out."""

import json
from typing import Any

import pandas as pd

from cryofuse.acquire.manifest import used_granules
from cryofuse.learning.skill import verdict
from cryofuse.logs import job_log
from cryofuse.products.answers import render_lead
from cryofuse.products.summary import render_summary
from cryofuse.tables import read_geo_table, read_table, written


def main(snakemake: Any) -> None:
    """Run the job."""
    given, params = snakemake.input, snakemake.params
    unit = params.mascons["unit"]
    validation = given.get("validation")
    manifests = [given.manifests] if isinstance(given.manifests, str) else given.manifests
    with job_log(snakemake.log[0]):
        page = render_summary(
            title=params.region["title"],
            source=params.source,
            unit=unit,
            months=f"{params.period['start']} to {params.period['end']}",
            filter_report=read_table(given.filter_report),
            checks=read_table(given.checks),
            centroids=read_table(given.centroids),
            stability=read_table(given.stability),
            lead=render_lead(
                planted=params.source == "synthetic",
                sea_level=read_table(given.sea_level),
                scores=read_table(given.scores),
                explained=read_table(given.explained),
                coupling=read_table(given.coupling),
                fdr=params.coupling["fdr"],
                centroids=read_table(given.centroids),
                product=params.mascons["product"],
                unit=unit,
            ),
            verdict=verdict(read_table(given.scores)).replace("mascon", unit),
            explained=read_table(given.explained),
            coupling=read_table(given.coupling),
            fdr=params.coupling["fdr"],
            min_months=params.coupling["min_n"],
            granules=len(used_granules(pd.concat([read_table(path) for path in manifests]))),
            totals=read_table(given.totals),
            sea_level=read_table(given.sea_level),
            comparison=read_table(given.comparison),
            sheet_coupling=read_table(given.sheet_coupling),
            case_study=read_table(given.case_study),
            season_months=params.case_study["months"],
            coverage=params.coverage,
            rapid_melt=read_table(given.rapid_melt),
            rapid_melt_rates=read_table(given.rapid_melt_rates),
            early_warning=read_table(given.early_warning),
            sensitivity=read_table(given.sensitivity),
            lakes=read_geo_table(given.lakes),
            lake_events=read_table(given.lake_events),
            searched_nodes=read_table(given.searched_nodes),
            inventory_matches=read_table(given.inventory_matches),
            features_ledger=read_table(given.features_ledger),
            validation=json.loads(open(validation).read()) if validation else None,
        )
        with written(snakemake.output.summary) as path:
            path.write_text(page)


if __name__ == "__main__":
    main(snakemake)
