# Regimes, skill, explained variance and coupling.


# A fitted model is applied to a table of mascons and months: seconds, below 1 GB.
localrules:
    predict_mass,


rule cluster_regimes:
    input:
        nodes=per_tile(rules.fit_nodes.output.nodes),
        mascons=rules.read_mascons.output.mascons,
        lib=lib(
            "learning/regimes",
            *on_spark("learning/spark/regimes", "learning/spark/session"),
        ),
    output:
        nodes="results/{region}/regimes/nodes.parquet",
        mascons="results/{region}/regimes/mascons.parquet",
        centroids="results/{region}/regimes/centroids.parquet",
        stability="results/{region}/regimes/stability.parquet",
    log:
        "logs/{region}/cluster_regimes.log",
    benchmark:
        "logs/{region}/cluster_regimes.tsv"
    conda:
        ENVIRONMENT
    threads: learning_threads(1)
    resources:
        mem_mb=memory(learning_memory(2000), 8),
        runtime=minutes(20, 0.1),
    params:
        regimes=settings("regimes"),
        learning=learning_engine,
        region=region_settings,
    message:
        "Clustering the nodes of {wildcards.region}"
    script:
        "../scripts/cluster_regimes.py"


rule score_skill:
    input:
        features=rules.build_features.output.features,
        mascons=rules.read_mascons.output.mascons,
        lib=lib(
            "learning/table",
            "learning/skill",
            "mascons/footprints",
            *on_spark("learning/spark/skill"),
        ),
    output:
        scores="results/{region}/skill/scores.parquet",
        predictions="results/{region}/skill/predictions.parquet",
        table=report(
            "results/{region}/skill/table.md",
            caption="../report/skill_table.rst",
            category="4 Learning",
            labels={"figure": "table of skill", "region": "{region}"},
        ),
        table_csv="results/{region}/skill/table.csv",
    log:
        "logs/{region}/score_skill.log",
    benchmark:
        "logs/{region}/score_skill.tsv"
    conda:
        ENVIRONMENT
    threads: learning_threads(2)
    resources:
        # 3 minutes on two cores for a megabyte of features; 393 mascons and 75 months have 11.
        mem_mb=memory(learning_memory(2000), 20, per_thread_mb=700, size=features_mb),
        runtime=minutes(30, 10, size=features_mb),
    params:
        skill=settings("skill"),
        learning=learning_engine,
        region=region_settings,
    message:
        "Scoring models under every split for {wildcards.region}"
    script:
        "../scripts/score_skill.py"


rule trace_learning:
    input:
        features=rules.build_features.output.features,
        mascons=rules.read_mascons.output.mascons,
        lib=lib("learning/curve", "mascons/footprints"),
    output:
        curve="results/{region}/skill/learning_curve.parquet",
    log:
        "logs/{region}/trace_learning.log",
    benchmark:
        "logs/{region}/trace_learning.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=memory(1500, 20, per_thread_mb=700, size=features_mb),
        runtime=minutes(20, 2, size=features_mb),
    params:
        skill=settings("skill"),
    message:
        "Tracing skill against the amount of training data for {wildcards.region}"
    script:
        "../scripts/trace_learning.py"


rule fit_models:
    input:
        features=rules.build_features.output.features,
        scores=rules.score_skill.output.scores,
        mascons=rules.read_mascons.output.mascons,
        lib=lib("learning/applied", "mascons/footprints"),
    output:
        models=directory("results/{region}/models"),
    log:
        "logs/{region}/fit_models.log",
    benchmark:
        "logs/{region}/fit_models.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=memory(1500, 20, size=features_mb),
        runtime=minutes(20, 2, size=features_mb),
    params:
        skill=settings("skill"),
        mascons=mascon_kind,
    message:
        "Fitting models on all samples of {wildcards.region}"
    script:
        "../scripts/fit_models.py"


rule predict_mass:
    input:
        features=rules.build_features.output.features,
        models=saved_models,
        lib=lib("learning/applied"),
    output:
        predicted="results/{region}/predicted/mass_change.parquet",
    log:
        "logs/{region}/predict_mass.log",
    benchmark:
        "logs/{region}/predict_mass.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=memory(1000),
        runtime=minutes(10),
    params:
        predict=settings("predict"),
        mascons=mascon_kind,
    message:
        "Applying a saved model to {wildcards.region}"
    script:
        "../scripts/predict_mass.py"


rule predict_months:
    input:
        features=rules.build_features.output.features,
        fusion=rules.fuse_mascons.output.retrospective,
        scores=rules.score_skill.output.scores,
        mascons=rules.read_mascons.output.mascons,
        lib=lib("learning/months", "mascons/footprints"),
    output:
        months="results/{region}/product/months.parquet",
    log:
        "logs/{region}/predict_months.log",
    benchmark:
        "logs/{region}/predict_months.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=memory(1500, 20, size=features_mb),
        runtime=minutes(20, 2, size=features_mb),
    params:
        skill=settings("skill"),
    message:
        "Predicting every month of the left-out mascons of {wildcards.region}"
    script:
        "../scripts/predict_months.py"


rule explain_variance:
    input:
        features=rules.build_features.output.features,
        predictions=rules.score_skill.output.predictions,
        mascons=rules.read_mascons.output.mascons,
        lib=lib("learning/importance", "mascons/footprints"),
    output:
        mascons="results/{region}/explained/mascons.parquet",
        importance="results/{region}/explained/importance.parquet",
    log:
        "logs/{region}/explain_variance.log",
    benchmark:
        "logs/{region}/explain_variance.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=memory(1500, 20, per_thread_mb=700, size=features_mb),
        runtime=minutes(20, 2, size=features_mb),
    params:
        explained=settings("explained"),
        skill=settings("skill"),
    message:
        "Explaining the variance of mass change in {wildcards.region}"
    script:
        "../scripts/explain_variance.py"


rule correlate_series:
    input:
        fusion=rules.fuse_mascons.output.retrospective,
        mascons=rules.read_mascons.output.mascons,
        lib=lib("learning/coupling"),
    output:
        coupling="results/{region}/coupling/mascons.parquet",
    log:
        "logs/{region}/correlate_series.log",
    benchmark:
        "logs/{region}/correlate_series.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=memory(1500, 10),
        runtime=minutes(15, 3),
    params:
        coupling=settings("coupling"),
    message:
        "Correlating elevation and mass in {wildcards.region}"
    script:
        "../scripts/correlate_series.py"


rule regimes:
    input:
        every_region(rules.cluster_regimes.output.nodes),


rule skill:
    input:
        every_region(rules.score_skill.output.scores, rules.trace_learning.output.curve),


rule predict:
    input:
        every_region(rules.predict_mass.output.predicted),


rule explained:
    input:
        every_region(rules.explain_variance.output.mascons),


rule coupling:
    input:
        every_region(rules.correlate_series.output.coupling),
