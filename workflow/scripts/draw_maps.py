"""Adapter of rule draw_maps: result tables by mascon and node in, six maps out."""

from typing import Any

import pandas as pd

from cryofuse.config import RegionSettings
from cryofuse.logs import job_log
from cryofuse.products import figures_maps as figures
from cryofuse.products.style import base_map, cut_mascons, months_text, save_outputs
from cryofuse.tables import read_geo_table, read_table


def main(snakemake: Any) -> None:
    """Run the job."""
    with job_log(snakemake.log[0]):
        given = snakemake.input
        base = base_map(RegionSettings.model_validate(snakemake.params.region))
        shapes = cut_mascons(read_geo_table(given.mascons), base, snakemake.params.unit)
        nodes = pd.concat(map(read_table, given.nodes), ignore_index=True)
        months = months_text(nodes["first"], nodes["last"])
        lakes = read_geo_table(given.lakes)
        coupling = read_table(given.coupling)
        regimes = read_table(given.regime_nodes)
        centroids = read_table(given.centroids)
        fdr = getattr(snakemake.params, "coupling", {}).get("fdr", 0.05)
        save_outputs(
            snakemake.output,
            {
                "regime_map": figures.draw_regime_map(
                    regimes, nodes, read_table(given.regime_mascons), centroids, shapes, base
                ),
                "skill_map": figures.draw_skill_map(read_table(given.scores), shapes, base, months),
                "explained_map": figures.draw_explained_map(
                    read_table(given.explained), shapes, base, months
                ),
                "coupling_map": figures.draw_coupling_map(
                    coupling, lakes, shapes, base, months, fdr
                ),
                "lead_lag_map": figures.draw_lead_lag_map(coupling, shapes, base, months, fdr),
                "lakes_map": figures.draw_lakes_map(
                    lakes,
                    read_table(given.lake_months),
                    read_table(given.lake_events),
                    read_table(given.searched_nodes),
                    read_table(given.inventory_matches),
                    base,
                ),
            },
        )


if __name__ == "__main__":
    main(snakemake)
