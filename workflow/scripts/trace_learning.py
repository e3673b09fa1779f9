"""Adapter of rule trace_learning: features in, learning curves out."""

from typing import Any

from cryofuse.compute import open_job_workers
from cryofuse.config import SkillSettings
from cryofuse.fusion.features import read_features
from cryofuse.learning.curve import trace_learning
from cryofuse.logs import job_log
from cryofuse.mascons.footprints import neighbours
from cryofuse.provenance import provenance
from cryofuse.tables import LEARNING_CURVE, read_geo_table, write_table


def main(snakemake: Any) -> None:
    """Run the job."""
    with job_log(snakemake.log[0]):
        settings = SkillSettings.model_validate(snakemake.params.skill)
        features = read_features(snakemake.input.features)
        mascons = read_geo_table(snakemake.input.mascons)
        near = neighbours(mascons, settings.neighbour_buffer_km or 0.0)
        with open_job_workers(snakemake) as run:
            curve = trace_learning(features, settings, near, run)
        origin = provenance(snakemake) | {"seed": settings.seed}
        write_table(curve, snakemake.output.curve, LEARNING_CURVE, origin)


if __name__ == "__main__":
    main(snakemake)
