# Applications, figures and, where the truth is known, its recovery.


# Their inputs are tables of mascons and months or less, not of nodes: seconds, below 1 GB.
localrules:
    sum_totals,
    couple_sheet,
    detect_rapid_melt,
    warn_early,
    weigh_choices,
    draw_series,
    draw_learning,
    draw_applications,
    write_product,
    write_summary,
    write_dashboard,


# Whose errors the sums take, by which they are correlated.
SAMPLE = CONFIG.mascons.product if CONFIG.fusion.unit == "mascon" else "basin"
# Keys of the applications that no sum depends on.
NOT_SUMMED = ("rapid_melt", "early_warning")


rule study_melt_seasons:
    input:
        fusion=rules.fuse_mascons.output.retrospective,
        mascons=rules.read_mascons.output.mascons,
        lib=lib("products/case_study"),
    output:
        case_study="results/{region}/applications/case_study.parquet",
        months="results/{region}/applications/case_study_months.parquet",
    log:
        "logs/{region}/study_melt_seasons.log",
    benchmark:
        "logs/{region}/study_melt_seasons.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=memory(1500, 10),
        runtime=minutes(15, 3),
    params:
        case_study=settings("case_study"),
        skill=settings("skill"),
        applications=settings("applications", "ice_fractions", *NOT_SUMMED),
        sample=SAMPLE,
    message:
        "Studying the melt seasons of {wildcards.region}"
    script:
        "../scripts/study_melt_seasons.py"


rule sum_totals:
    input:
        fusion=rules.fuse_mascons.output.retrospective,
        mass=rules.read_mascons.output.mass,
        mascons=rules.read_mascons.output.mascons,
        lib=lib("products/totals", "products/reference"),
        region=region_files("reference_series"),
    output:
        totals="results/{region}/applications/totals.parquet",
        sea_level="results/{region}/applications/sea_level.parquet",
        comparison="results/{region}/applications/comparison.parquet",
    log:
        "logs/{region}/sum_totals.log",
    benchmark:
        "logs/{region}/sum_totals.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=memory(1500),
        runtime=minutes(10),
    params:
        applications=settings("applications", "ice_fractions", *NOT_SUMMED),
        period=settings("period"),
        sample=SAMPLE,
        region=region_settings,
    message:
        "Adding up the mass of {wildcards.region}"
    script:
        "../scripts/sum_totals.py"


rule couple_sheet:
    input:
        totals=rules.sum_totals.output.totals,
        lib=lib("products/sheet"),
        region=region_files("reference_series"),
    output:
        coupling="results/{region}/applications/sheet_coupling.parquet",
    log:
        "logs/{region}/couple_sheet.log",
    benchmark:
        "logs/{region}/couple_sheet.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=memory(1000),
        runtime=minutes(10),
    params:
        coupling=settings("coupling"),
        period=settings("period"),
        region=region_settings,
    message:
        "Coupling the volume and the mass of {wildcards.region}"
    script:
        "../scripts/couple_sheet.py"


rule detect_rapid_melt:
    input:
        fusion=rules.fuse_mascons.output.retrospective,
        mass=rules.read_mascons.output.mass,
        mascons=rules.read_mascons.output.mascons,
        totals=rules.sum_totals.output.totals,
        predicted=rules.study_melt_seasons.output.months,
        lib=lib("products/rapid_melt"),
    output:
        months="results/{region}/applications/rapid_melt.parquet",
        rates="results/{region}/applications/rapid_melt_rates.parquet",
    log:
        "logs/{region}/detect_rapid_melt.log",
    benchmark:
        "logs/{region}/detect_rapid_melt.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=memory(1500),
        runtime=minutes(15),
    params:
        rapid_melt=settings("applications.rapid_melt"),
    message:
        "Looking for months of rapid melt in {wildcards.region}"
    script:
        "../scripts/detect_rapid_melt.py"


rule warn_early:
    input:
        fusion=rules.fuse_mascons.output.retrospective,
        mascons=rules.read_mascons.output.mascons,
        totals=rules.sum_totals.output.totals,
        lib=lib("products/early_warning"),
    output:
        trends="results/{region}/applications/early_warning.parquet",
        windows="results/{region}/applications/early_warning_windows.parquet",
    log:
        "logs/{region}/warn_early.log",
    benchmark:
        "logs/{region}/warn_early.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=memory(1500),
        runtime=minutes(15),
    params:
        early_warning=settings("applications.early_warning"),
    message:
        "Following variance and memory of {wildcards.region}"
    script:
        "../scripts/warn_early.py"


rule weigh_choices:
    input:
        fusion=rules.fuse_mascons.output.retrospective,
        mass=rules.read_mascons.output.mass,
        mascons=rules.read_mascons.output.mascons,
        lib=lib("products/sensitivity"),
    output:
        sensitivity="results/{region}/applications/sensitivity.parquet",
    log:
        "logs/{region}/weigh_choices.log",
    benchmark:
        "logs/{region}/weigh_choices.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=memory(1500),
        runtime=minutes(10),
    params:
        applications=settings("applications", *NOT_SUMMED),
        select=settings("mascons.select"),
        sample=SAMPLE,
    message:
        "Weighing the choices behind the mass of {wildcards.region}"
    script:
        "../scripts/weigh_choices.py"


rule draw_altimetry:
    input:
        nodes=per_tile(rules.fit_nodes.output.nodes),
        node_months=per_tile(rules.fit_nodes.output.node_months),
        filter_report=rules.report_filters.output.table,
        mascons=rules.read_mascons.output.mascons,
        lib=lib("products/figures_altimetry"),
        region=region_files("outline", "coast"),
    output:
        **figure_files("altimetry"),
    log:
        "logs/{region}/draw_altimetry.log",
    benchmark:
        "logs/{region}/draw_altimetry.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=memory(2000, 2),
        runtime=minutes(15, 0.02),
    params:
        region=region_settings,
        elevation=settings("elevation"),
        period=settings("period"),
        unit=CONFIG.fusion.unit,
    message:
        "Drawing elevation change"
    script:
        "../scripts/draw_altimetry.py"


rule draw_maps:
    input:
        regime_nodes=rules.cluster_regimes.output.nodes,
        regime_mascons=rules.cluster_regimes.output.mascons,
        centroids=rules.cluster_regimes.output.centroids,
        scores=rules.score_skill.output.scores,
        explained=rules.explain_variance.output.mascons,
        coupling=rules.correlate_series.output.coupling,
        lakes=rules.find_lakes.output.lakes,
        lake_months=rules.find_lakes.output.lake_months,
        lake_events=rules.find_lakes.output.lake_events,
        searched_nodes=rules.find_lakes.output.searched_nodes,
        inventory_matches=rules.find_lakes.output.inventory_matches,
        mascons=rules.read_mascons.output.mascons,
        nodes=per_tile(rules.fit_nodes.output.nodes),
        lib=lib("products/figures_maps"),
        region=region_files("outline", "coast", "inventory"),
    output:
        **figure_files("maps"),
    log:
        "logs/{region}/draw_maps.log",
    benchmark:
        "logs/{region}/draw_maps.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=memory(2000, 6),
        runtime=minutes(15, 0.05),
    params:
        region=region_settings,
        elevation=settings("elevation"),
        period=settings("period"),
        skill=settings("skill"),
        coupling=settings("coupling"),
        unit=CONFIG.fusion.unit,
    message:
        "Drawing the maps of regimes, skill and coupling"
    script:
        "../scripts/draw_maps.py"


rule draw_series:
    input:
        fusion=rules.fuse_mascons.output.retrospective,
        mascons=rules.read_mascons.output.mascons,
        totals=rules.sum_totals.output.totals,
        comparison=rules.sum_totals.output.comparison,
        sheet_coupling=rules.couple_sheet.output.coupling,
        case_study=rules.study_melt_seasons.output.case_study,
        lib=lib("products/figures_series", "products/figures_sheet"),
        region=region_files("outline", "coast", "reference_series"),
    output:
        **figure_files("series"),
    log:
        "logs/{region}/draw_series.log",
    benchmark:
        "logs/{region}/draw_series.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=memory(1500),
        runtime=minutes(20),
    params:
        region=region_settings,
        period=settings("period"),
        case_study=settings("case_study"),
        unit=CONFIG.fusion.unit,
    message:
        "Drawing series and totals"
    script:
        "../scripts/draw_series.py"


rule draw_learning:
    input:
        scores=rules.score_skill.output.scores,
        predictions=rules.score_skill.output.predictions,
        learning_curve=rules.trace_learning.output.curve,
        importance=rules.explain_variance.output.importance,
        stability=rules.cluster_regimes.output.stability,
        lib=lib("products/figures_learning"),
    output:
        **figure_files("learning"),
    log:
        "logs/{region}/draw_learning.log",
    benchmark:
        "logs/{region}/draw_learning.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=memory(1500),
        runtime=minutes(20),
    params:
        region=region_settings,
        period=settings("period"),
        skill=settings("skill"),
        explained=settings("explained"),
        unit=CONFIG.fusion.unit,
    message:
        "Drawing skill, importance and calibration"
    script:
        "../scripts/draw_learning.py"


rule draw_applications:
    input:
        rapid_melt=rules.detect_rapid_melt.output.months,
        rates=rules.detect_rapid_melt.output.rates,
        early_warning=rules.warn_early.output.trends,
        windows=rules.warn_early.output.windows,
        sensitivity=rules.weigh_choices.output.sensitivity,
        lib=lib("products/figures_applications"),
    output:
        **figure_files("applications"),
    log:
        "logs/{region}/draw_applications.log",
    benchmark:
        "logs/{region}/draw_applications.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=memory(1500),
        runtime=minutes(20),
    params:
        region=region_settings,
        early_warning=settings("applications.early_warning"),
        unit=CONFIG.fusion.unit,
    message:
        "Drawing rapid melt, early warning and sensitivity"
    script:
        "../scripts/draw_applications.py"


VALIDATED = every_region("results/{region}/validation.json") if HAS_TRUTH else []

if HAS_TRUTH:

    rule validate_world:
        input:
            truth=rules.simulate_mascons.output.truth,
            mascons=rules.read_mascons.output.mascons,
            mass=rules.read_mascons.output.mass,
            nodes=per_tile(rules.fit_nodes.output.nodes),
            fusion=rules.fuse_mascons.output.retrospective,
            causal=rules.fuse_mascons.output.causal,
            regimes=rules.cluster_regimes.output.nodes,
            scores=rules.score_skill.output.scores,
            predictions=rules.score_skill.output.predictions,
            coupling=rules.correlate_series.output.coupling,
            lakes=rules.find_lakes.output.lakes,
            lake_events=rules.find_lakes.output.lake_events,
            totals=rules.sum_totals.output.totals,
            sea_level=rules.sum_totals.output.sea_level,
            case_study=rules.study_melt_seasons.output.case_study,
            rapid_melt=rules.detect_rapid_melt.output.months,
            rapid_melt_rates=rules.detect_rapid_melt.output.rates,
            ledger=per_period(rules.filter_segments.output.ledger),
            lib=lib("products/validation", "simulate/world"),
            region=region_files("outline"),
        output:
            validation=report(
                "results/{region}/validation.json",
                caption="../report/validation.rst",
                category="6 Recovery of the truth",
                labels={"figure": "recovery of the truth", "region": "{region}"},
            ),
        log:
            "logs/{region}/validate_world.log",
        benchmark:
            "logs/{region}/validate_world.tsv"
        conda:
            ENVIRONMENT
        threads: 1
        resources:
            mem_mb=memory(2000, 6),
            runtime=minutes(15, 0.05),
        params:
            world=settings("world"),
            elevation=settings("elevation"),
            period=settings("period"),
            case_study=settings("case_study"),
            skill=settings("skill"),
            hydrology=settings("hydrology"),
            region=region_settings,
        message:
            "Comparing the results with the planted truth"
        script:
            "../scripts/validate_world.py"


rule write_product:
    input:
        months=rules.predict_months.output.months,
        mascons=rules.read_mascons.output.mascons,
        manifests=per_period(MANIFEST),
        lib=lib("products/mass_change", "acquire/manifest"),
    output:
        netcdf="results/{region}/product/mass_change.nc",
        geopackage="results/{region}/product/mass_change.gpkg",
    log:
        "logs/{region}/write_product.log",
    benchmark:
        "logs/{region}/write_product.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=memory(1000),
        runtime=minutes(10),
    params:
        region=region_settings,
        altimetry=CONFIG.altimetry.product,
    message:
        "Writing the mass change of {wildcards.region} as NetCDF and GeoPackage"
    script:
        "../scripts/write_product.py"


rule write_summary:
    input:
        unpack(validation_file),
        manifests=per_period(MANIFEST),
        filter_report=rules.report_filters.output.table,
        checks=rules.summarise_checks.output.checks,
        centroids=rules.cluster_regimes.output.centroids,
        stability=rules.cluster_regimes.output.stability,
        scores=rules.score_skill.output.scores,
        explained=rules.explain_variance.output.mascons,
        coupling=rules.correlate_series.output.coupling,
        sea_level=rules.sum_totals.output.sea_level,
        comparison=rules.sum_totals.output.comparison,
        totals=rules.sum_totals.output.totals,
        sheet_coupling=rules.couple_sheet.output.coupling,
        case_study=rules.study_melt_seasons.output.case_study,
        rapid_melt=rules.detect_rapid_melt.output.months,
        rapid_melt_rates=rules.detect_rapid_melt.output.rates,
        early_warning=rules.warn_early.output.trends,
        sensitivity=rules.weigh_choices.output.sensitivity,
        lakes=rules.find_lakes.output.lakes,
        lake_events=rules.find_lakes.output.lake_events,
        searched_nodes=rules.find_lakes.output.searched_nodes,
        inventory_matches=rules.find_lakes.output.inventory_matches,
        features_ledger=rules.build_features.output.ledger,
        lib=lib(
            "products/summary",
            "products/answers",
            "learning/skill",
            "acquire/manifest",
        ),
    output:
        summary=report(
            "results/{region}/summary.html",
            caption="../report/summary.rst",
            category="0 Summary",
            labels={"figure": "summary", "region": "{region}"},
        ),
    log:
        "logs/{region}/write_summary.log",
    benchmark:
        "logs/{region}/write_summary.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=memory(1000),
        runtime=minutes(10),
    params:
        coupling=settings("coupling"),
        case_study=settings("case_study"),
        coverage=CONFIG.skill.coverage,
        mascons=mascon_kind,
        period=settings("period"),
        region=region_settings,
        source=CONFIG.source,
    message:
        "Writing the summary of {wildcards.region}"
    script:
        "../scripts/write_summary.py"


rule write_dashboard:
    input:
        product=rules.predict_months.output.months,
        fusion=rules.fuse_mascons.output.retrospective,
        mascons=rules.read_mascons.output.mascons,
        regimes=rules.cluster_regimes.output.mascons,
        centroids=rules.cluster_regimes.output.centroids,
        scores=rules.score_skill.output.scores,
        explained=rules.explain_variance.output.mascons,
        coupling=rules.correlate_series.output.coupling,
        case_study=rules.study_melt_seasons.output.case_study,
        totals=rules.sum_totals.output.totals,
        sea_level=rules.sum_totals.output.sea_level,
        lakes=rules.find_lakes.output.lakes,
        lib=lib(
            "products/dashboard/data", "products/dashboard/page", "products/answers"
        ),
        page=page_files("products/dashboard"),
        region=region_files("outline", "coast"),
    output:
        dashboard=report(
            "results/{region}/dashboard.html",
            caption="../report/dashboard.rst",
            category="0 Summary",
            labels={"figure": "dashboard", "region": "{region}"},
        ),
    log:
        "logs/{region}/write_dashboard.log",
    benchmark:
        "logs/{region}/write_dashboard.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=memory(1500),
        runtime=minutes(10),
    params:
        coupling=settings("coupling"),
        period=settings("period"),
        region=region_settings,
        skill=settings("skill"),
        source=CONFIG.source,
        unit=CONFIG.fusion.unit,
    message:
        "Writing the dashboard of {wildcards.region}"
    script:
        "../scripts/write_dashboard.py"


rule applications:
    input:
        every_region(
            rules.sum_totals.output.sea_level,
            rules.couple_sheet.output.coupling,
            rules.study_melt_seasons.output.case_study,
            rules.detect_rapid_melt.output.rates,
            rules.warn_early.output.trends,
            rules.weigh_choices.output.sensitivity,
        ),


rule figures:
    input:
        every_region(
            *(
                f"results/{{region}}/figures/{name}.png"
                for group in FIGURES.values()
                for name in group
            )
        ),


rule dashboard:
    input:
        every_region(rules.write_dashboard.output.dashboard),


rule product:
    input:
        every_region(
            rules.write_product.output.netcdf,
            rules.write_product.output.geopackage,
        ),


rule summary:
    input:
        every_region(rules.write_summary.output.summary),


rule validation:
    input:
        VALIDATED,
