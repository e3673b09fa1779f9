# cryofuse: from ICESat-2 granules and GRACE mascons to what one says about the other.
from snakemake.utils import min_version

min_version("9.27")


configfile: workflow.source_path("config/config.yaml")


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/acquire.smk"
include: "workflow/rules/altimetry.smk"
include: "workflow/rules/gravimetry.smk"
include: "workflow/rules/fusion.smk"
include: "workflow/rules/learning.smk"
include: "workflow/rules/hydrology.smk"
include: "workflow/rules/products.smk"


localrules:
    all,
    download,
    subset,
    filter,
    filter_report,
    elevation,
    gravimetry,
    fusion,
    features,
    regimes,
    skill,
    predict,
    explained,
    coupling,
    hydrology,
    applications,
    figures,
    dashboard,
    product,
    summary,
    validation,


onstart:
    # Workers of a job are Slurm's jobs, too.
    if not workflow.local_exec or CONFIG.compute.address == "slurm":
        forbid_travelling_secrets()


rule all:
    default_target: True
    input:
        rules.figures.input,
        rules.dashboard.input,
        rules.product.input,
        rules.summary.input,
        rules.predict.input,
        rules.validation.input,
        removed_granules(),
