"""Adapter of rule fit_models: features and scores in, saved models with their cards out."""

from typing import Any

from cryofuse.config import SkillSettings
from cryofuse.fusion.features import read_features
from cryofuse.learning.applied import fit_models
from cryofuse.logs import job_log
from cryofuse.mascons.footprints import neighbours
from cryofuse.provenance import provenance
from cryofuse.tables import read_geo_table, read_table


def main(snakemake: Any) -> None:
    """Run the job."""
    with job_log(snakemake.log[0]):
        settings = SkillSettings.model_validate(snakemake.params.skill)
        mascons = read_geo_table(snakemake.input.mascons)
        fit_models(
            read_features(snakemake.input.features),
            read_table(snakemake.input.scores),
            settings,
            snakemake.output.models,
            {"region": snakemake.wildcards.region, **snakemake.params.mascons},
            neighbours(mascons, settings.neighbour_buffer_km or 0.0),
            provenance(snakemake),
        )


if __name__ == "__main__":
    main(snakemake)
