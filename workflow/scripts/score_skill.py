"""Adapter of rule score_skill: features in, scores and held-out predictions out."""

from typing import Any

from cryofuse.config import SkillSettings
from cryofuse.fusion.features import read_features
from cryofuse.learning.skill import evaluate, verdict
from cryofuse.logs import job_log
from cryofuse.mascons.footprints import neighbours
from cryofuse.provenance import provenance
from cryofuse.tables import PREDICTIONS, SCORES, read_geo_table, write_table


def main(snakemake: Any) -> None:
    """Run the job."""
    with job_log(snakemake.log[0]) as log:
        settings = SkillSettings.model_validate(snakemake.params.skill)
        features = read_features(snakemake.input.features)
        mascons = read_geo_table(snakemake.input.mascons)
        near = neighbours(mascons, settings.neighbour_buffer_km or 0.0)
        scores, predictions = evaluate(features, settings, snakemake.threads, near)
        sentence = verdict(scores)
        log.info("%s", sentence)
        origin = provenance(snakemake) | {"verdict": sentence, "seed": settings.seed}
        write_table(scores, snakemake.output.scores, SCORES, origin)
        write_table(predictions, snakemake.output.predictions, PREDICTIONS, origin)


if __name__ == "__main__":
    main(snakemake)
