"""Adapter of rule draw_altimetry: node tables and filter report in, four figures out."""

from typing import Any

import pandas as pd

from cryofuse.config import RegionSettings
from cryofuse.logs import job_log
from cryofuse.products import figures_altimetry as figures
from cryofuse.products.style import base_map, cut_mascons, save_outputs
from cryofuse.tables import read_geo_table, read_table


def main(snakemake: Any) -> None:
    """Run the job."""
    with job_log(snakemake.log[0]):
        region = RegionSettings.model_validate(snakemake.params.region)
        base = base_map(region)
        shapes = cut_mascons(read_geo_table(snakemake.input.mascons), base, snakemake.params.unit)
        nodes = pd.concat(map(read_table, snakemake.input.nodes), ignore_index=True)
        columns = ["node_id", "month", "n_segments"]
        months = pd.concat(
            [read_table(path, columns) for path in snakemake.input.node_months], ignore_index=True
        )
        report = read_table(snakemake.input.filter_report)
        save_outputs(
            snakemake.output,
            {
                "rate_map": figures.draw_rate_map(nodes, base),
                "amplitude_map": figures.draw_amplitude_map(nodes, base),
                "coverage": figures.draw_coverage(nodes, months, base, shapes),
                "filter_costs": figures.draw_filter_costs(report, region.title),
            },
        )


if __name__ == "__main__":
    main(snakemake)
