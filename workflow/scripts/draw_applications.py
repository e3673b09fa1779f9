"""Adapter of rule draw_applications: tables of the applications in, three figures out."""

from typing import Any

from cryofuse.config import EarlyWarningSettings, RegionSettings
from cryofuse.logs import job_log
from cryofuse.products import figures_applications as figures
from cryofuse.products.style import save_outputs
from cryofuse.tables import read_table


def main(snakemake: Any) -> None:
    """Run the job."""
    with job_log(snakemake.log[0]):
        given = snakemake.input
        title = RegionSettings.model_validate(snakemake.params.region).title
        unit = snakemake.params.unit
        window = EarlyWarningSettings.model_validate(snakemake.params.early_warning).window_months
        save_outputs(
            snakemake.output,
            {
                "rapid_melt": figures.draw_rapid_melt(
                    read_table(given.rapid_melt), read_table(given.rates), title, unit
                ),
                "early_warning": figures.draw_early_warning(
                    read_table(given.early_warning),
                    read_table(given.windows),
                    window,
                    title,
                    unit,
                ),
                "sensitivity": figures.draw_sensitivity(read_table(given.sensitivity), title, unit),
            },
        )


if __name__ == "__main__":
    main(snakemake)
