"""Adapter of rule predict_mass: features and a saved model in, predicted mass change out."""

from typing import Any

from cryofuse.config import PredictSettings
from cryofuse.fusion.features import read_features
from cryofuse.learning.applied import apply_saved
from cryofuse.logs import job_log
from cryofuse.provenance import provenance
from cryofuse.tables import PREDICTED_MASS, write_table


def main(snakemake: Any) -> None:
    """Run the job."""
    with job_log(snakemake.log[0]) as log:
        predicted, card, warnings = apply_saved(
            read_features(snakemake.input.features),
            snakemake.input.models,
            PredictSettings.model_validate(snakemake.params.predict),
            {"region": snakemake.wildcards.region, **snakemake.params.mascons},
        )
        for line in warnings:
            log.warning("%s", line)
        said = card.model_dump(mode="json", exclude={"months", "features", "provenance"})
        origin = provenance(snakemake) | {"model": said, "warnings": warnings, "seed": card.seed}
        write_table(predicted, snakemake.output.predicted, PREDICTED_MASS, origin)


if __name__ == "__main__":
    main(snakemake)
