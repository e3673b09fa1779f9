"""Adapter of rule write_dashboard: the region's tables in, one page that needs no network out."""

from typing import Any

from cryofuse.config import RegionSettings
from cryofuse.learning.skill import verdict
from cryofuse.logs import job_log
from cryofuse.products.answers import answer_prediction
from cryofuse.products.dashboard.data import build_data
from cryofuse.products.dashboard.page import render_page
from cryofuse.products.style import base_map, cut_mascons
from cryofuse.provenance import provenance
from cryofuse.tables import read_geo_table, read_table, written


def main(snakemake: Any) -> None:
    """Run the job."""
    given, params = snakemake.input, snakemake.params
    with job_log(snakemake.log[0]):
        base = base_map(RegionSettings.model_validate(params.region))
        mascons, lakes = read_geo_table(given.mascons), read_geo_table(given.lakes)
        scores, sea_level = read_table(given.scores), read_table(given.sea_level)
        data = build_data(
            title=base.title,
            months=(params.period["start"], params.period["end"]),
            product=read_table(given.product),
            fusion=read_table(given.fusion),
            mascons=mascons,
            regimes=read_table(given.regimes),
            centroids=read_table(given.centroids),
            scores=scores,
            explained=read_table(given.explained),
            coupling=read_table(given.coupling),
            case_study=read_table(given.case_study),
            totals=read_table(given.totals),
            sea_level=sea_level,
            lakes=lakes,
            fdr=params.coupling["fdr"],
            coverage=params.skill["coverage"],
            unit=params.unit,
        )
        page = render_page(
            data,
            base=base,
            shapes=cut_mascons(mascons, base, params.unit),
            lakes=lakes,
            sea_level=sea_level,
            answer=answer_prediction(scores),
            verdict=verdict(scores).replace("mascon", params.unit),
            synthetic=params.source == "synthetic",
            provenance=provenance(snakemake),
        )
        with written(snakemake.output.dashboard) as path:
            path.write_text(page)


if __name__ == "__main__":
    main(snakemake)
