"""Adapter of rule study_melt_seasons: mascon series in, case study out."""

from typing import Any

from cryofuse.config import ApplicationSettings, CaseStudySettings, SkillSettings
from cryofuse.logs import job_log
from cryofuse.products.case_study import study_melt_seasons
from cryofuse.provenance import provenance
from cryofuse.tables import CASE_STUDY, CASE_STUDY_MONTHS, read_table, write_table


def main(snakemake: Any) -> None:
    """Run the job."""
    with job_log(snakemake.log[0]):
        study, months = study_melt_seasons(
            read_table(snakemake.input.fusion),
            read_table(snakemake.input.mascons),
            CaseStudySettings.model_validate(snakemake.params.case_study),
            SkillSettings.model_validate(snakemake.params.skill),
            ApplicationSettings.model_validate(snakemake.params.applications),
            snakemake.params.sample,
        )
        write_table(study, snakemake.output.case_study, CASE_STUDY, provenance(snakemake))
        write_table(months, snakemake.output.months, CASE_STUDY_MONTHS, provenance(snakemake))


if __name__ == "__main__":
    main(snakemake)
