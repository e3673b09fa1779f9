"""Adapter of rule draw_learning: scores and predictions in, six figures out."""

from typing import Any

from cryofuse.config import RegionSettings
from cryofuse.logs import job_log
from cryofuse.products import figures_learning as figures
from cryofuse.products.style import months_text, save_outputs
from cryofuse.tables import read_table


def main(snakemake: Any) -> None:
    """Run the job."""
    with job_log(snakemake.log[0]):
        given = snakemake.input
        title = RegionSettings.model_validate(snakemake.params.region).title
        scores, predictions = read_table(given.scores), read_table(given.predictions)
        unit, months = snakemake.params.unit, months_text(predictions["month"])
        asked = "{start} to {end}".format(**snakemake.params.period)
        nominal = getattr(snakemake.params, "skill", {}).get("coverage", 0.9)
        save_outputs(
            snakemake.output,
            {
                "skill_bars": figures.draw_skill_bars(scores, title, months, unit),
                "learning_curve": figures.draw_learning_curve(
                    read_table(given.learning_curve), title, months, unit
                ),
                "predicted_observed": figures.draw_predicted_observed(
                    predictions, scores, title, unit
                ),
                "importance": figures.draw_importance(read_table(given.importance), title, months),
                "calibration": figures.draw_calibration(predictions, title, nominal, unit),
                "regime_selection": figures.draw_regime_selection(
                    read_table(given.stability), title, asked, unit
                ),
            },
        )


if __name__ == "__main__":
    main(snakemake)
