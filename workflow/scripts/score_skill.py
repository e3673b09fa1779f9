"""Adapter of rule score_skill: features in, scores, held-out predictions and tables out."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import Any

from cryofuse.compute import limit_threads, open_job_workers
from cryofuse.config import RegionSettings, SkillSettings
from cryofuse.fusion.features import read_features
from cryofuse.learning.skill import evaluate, verdict
from cryofuse.learning.table import flatten_scores, render_table
from cryofuse.logs import job_log
from cryofuse.mascons.footprints import neighbours
from cryofuse.provenance import provenance
from cryofuse.tables import PREDICTIONS, SCORES, read_geo_table, write_table, written


def main(snakemake: Any) -> None:
    """Run the job."""
    with job_log(snakemake.log[0]) as log, ExitStack() as stack:
        settings = SkillSettings.model_validate(snakemake.params.skill)
        features = read_features(snakemake.input.features)
        mascons = read_geo_table(snakemake.input.mascons)
        near = neighbours(mascons, settings.neighbour_buffer_km or 0.0)

        def run(function: Callable[[Any], Any], tasks: Iterable[Any]) -> Iterator[Any]:
            # Closed after the last task: workers would stand idle while Spark fits.
            with open_job_workers(snakemake) as workers:
                yield from workers(function, tasks)

        # Sums in another order would let scores depend on the number of threads.
        stack.enter_context(limit_threads(1))
        engine = None
        if snakemake.params.learning["engine"] == "spark":
            # Code of a job with Spark alone, and input of no other.
            from cryofuse.learning.spark.session import open_job_session
            from cryofuse.learning.spark.skill import spark_engine

            session = stack.enter_context(open_job_session(snakemake))
            engine = spark_engine(session, snakemake.input.features, snakemake.wildcards.region)
        scores, predictions = evaluate(features, settings, near, run, engine)
        sentence = verdict(scores)
        log.info("%s", sentence)
        origin = provenance(snakemake) | {"verdict": sentence, "seed": settings.seed}
        origin["engine"] = engine.about if engine else {"name": "scikit-learn"}
        write_table(scores, snakemake.output.scores, SCORES, origin)
        write_table(predictions, snakemake.output.predictions, PREDICTIONS, origin)
        title = RegionSettings.model_validate(snakemake.params.region).title
        with written(snakemake.output.table) as path:
            path.write_text(render_table(scores, title))
        with written(snakemake.output.table_csv) as path:
            flatten_scores(scores).to_csv(path, index=False)


if __name__ == "__main__":
    main(snakemake)
