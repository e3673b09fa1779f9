"""Adapter of rule predict_months: features and scores in, predictions of all months out."""

from typing import Any

from cryofuse.config import SkillSettings
from cryofuse.fusion.features import read_features
from cryofuse.learning.months import predict_months
from cryofuse.logs import job_log
from cryofuse.mascons.footprints import neighbours
from cryofuse.provenance import provenance
from cryofuse.tables import PRODUCT_MONTHS, read_geo_table, read_table, write_table


def main(snakemake: Any) -> None:
    """Run the job."""
    with job_log(snakemake.log[0]):
        settings = SkillSettings.model_validate(snakemake.params.skill)
        mascons = read_geo_table(snakemake.input.mascons)
        months, models = predict_months(
            read_features(snakemake.input.features),
            read_table(snakemake.input.fusion),
            read_table(snakemake.input.scores),
            settings,
            neighbours(mascons, settings.neighbour_buffer_km or 0.0),
        )
        origin = provenance(snakemake) | {
            "models": models,
            "coverage": settings.coverage,
            "seed": settings.seed,
        }
        write_table(months, snakemake.output.months, PRODUCT_MONTHS, origin)


if __name__ == "__main__":
    main(snakemake)
