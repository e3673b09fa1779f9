"""Adapter of rule explain_variance: features and predictions in, explained variance out."""

from typing import Any

from cryofuse.compute import open_job_workers
from cryofuse.config import ExplainedSettings, SkillSettings
from cryofuse.fusion.features import read_features
from cryofuse.learning.importance import explain_variance, list_rows, rank_features
from cryofuse.logs import job_log
from cryofuse.mascons.footprints import neighbours
from cryofuse.provenance import provenance
from cryofuse.tables import EXPLAINED, IMPORTANCE, read_geo_table, read_table, write_table


def main(snakemake: Any) -> None:
    """Run the job."""
    with job_log(snakemake.log[0]):
        settings = ExplainedSettings.model_validate(snakemake.params.explained)
        skill = SkillSettings.model_validate(snakemake.params.skill)
        features = read_features(snakemake.input.features)
        mascons = read_geo_table(snakemake.input.mascons)
        predictions = read_table(snakemake.input.predictions)
        explained = explain_variance(predictions, settings, list_rows(features, skill), skill)
        near = neighbours(mascons, skill.neighbour_buffer_km or 0.0)
        with open_job_workers(snakemake) as run:
            importance = rank_features(features, settings, skill, near, run)
        origin = provenance(snakemake) | {"seed": skill.seed}
        write_table(explained, snakemake.output.mascons, EXPLAINED, origin)
        write_table(importance, snakemake.output.importance, IMPORTANCE, origin)


if __name__ == "__main__":
    main(snakemake)
