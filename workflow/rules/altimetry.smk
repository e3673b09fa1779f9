# Granules to kept segments, and segments to elevation change at nodes.


# They read ledgers and pairs of one period or tile at a time and keep sums: seconds, below 1 GB.
localrules:
    report_filters,
    summarise_checks,


rule subset_granules:
    input:
        manifest=MANIFEST,
        held=held_granules,
        lib=lib("acquire/manifest", "atl06/granule", "atl06/subset", "atl11/granule"),
        region=region_files("outline"),
    output:
        segments="results/{region}/altimetry/subset/{period}.parquet",
        ledger="results/{region}/altimetry/ledger/subset/{period}.parquet",
    log:
        "logs/{region}/subset_granules/{period}.log",
    benchmark:
        "logs/{region}/subset_granules/{period}.tsv"
    # Raw granules that may be removed wait for this.
    priority: 1
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        # One granule at a time and worker: 900 MB, however many there are.
        mem_mb=memory(2000, per_thread_mb=900),
        runtime=minutes(20, 0.005, size=granules_mb),
    params:
        altimetry=settings("altimetry"),
        elevation=lambda wildcards: {"tile_m": CONFIG.elevation.tile_m},
        filters=lambda wildcards: {
            "max_unreadable_share": CONFIG.filters.max_unreadable_share
        },
        period=period_months,
        region=region_settings,
    message:
        "Cutting the granules of {wildcards.period} to {wildcards.region}"
    script:
        "../scripts/subset_granules.py"


rule filter_segments:
    input:
        segments=rules.subset_granules.output.segments,
        ledger=rules.subset_granules.output.ledger,
        lib=lib("atl06/filtering", "rasters"),
        region=region_files("outline", "ice_mask", "dem"),
    output:
        segments="results/{region}/altimetry/filtered/{period}.parquet",
        ledger="results/{region}/altimetry/ledger/{period}.parquet",
    log:
        "logs/{region}/filter_segments/{period}.log",
    benchmark:
        "logs/{region}/filter_segments/{period}.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        # Rows go through in batches: memory has a bound.
        mem_mb=memory(2000),
        runtime=minutes(15, 0.02),
    params:
        elevation=lambda wildcards: {"tile_m": CONFIG.elevation.tile_m},
        filters=settings("filters"),
        region=region_settings,
    message:
        "Filtering the segments of {wildcards.period}"
    script:
        "../scripts/filter_segments.py"


rule fit_nodes:
    input:
        segments=per_period(rules.filter_segments.output.segments),
        lib=lib(
            "elevation/kernels",
            "elevation/surface",
            "elevation/anomalies",
            "elevation/tiles",
            "atl06/product",
            "atl11/product",
        ),
        region=region_files("outline", "ice_mask", "bed", "velocity"),
    output:
        nodes="results/{region}/altimetry/nodes/{tile}.parquet",
        node_months="results/{region}/altimetry/node_months/{tile}.parquet",
        causal="results/{region}/altimetry/node_months_causal/{tile}.parquet",
        checks="results/{region}/altimetry/check_pairs/{tile}.parquet",
    log:
        "logs/{region}/fit_nodes/{tile}.log",
    benchmark:
        "logs/{region}/fit_nodes/{tile}.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        # 1 900 MB and 13 minutes where tracks are densest, at 15 times the mean tile; 1 500 of them
        # a worker's.
        mem_mb=memory(2500, per_thread_mb=1500),
        runtime=minutes(20, 0.1, size=tile_mb),
    params:
        elevation=settings("elevation"),
        fusion=lambda wildcards: {"causal_min_years": CONFIG.fusion.causal_min_years},
        period=settings("period"),
        region=region_settings,
    message:
        "Fitting the nodes of tile {wildcards.tile}"
    script:
        "../scripts/fit_nodes.py"


rule summarise_checks:
    input:
        checks=per_tile(rules.fit_nodes.output.checks),
        lib=lib("elevation/checks"),
    output:
        checks="results/{region}/altimetry/checks.parquet",
    log:
        "logs/{region}/summarise_checks.log",
    benchmark:
        "logs/{region}/summarise_checks.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=memory(1000),
        runtime=minutes(10),
    params:
        tiles=lambda wildcards: TILES[wildcards.region],
    message:
        "Holding crossovers and repeats of {wildcards.region} against the fits"
    script:
        "../scripts/summarise_checks.py"


rule subset:
    input:
        every_period(rules.subset_granules.output.segments),
        removed_granules(),


rule filter:
    input:
        every_period(rules.filter_segments.output.segments),


rule elevation:
    input:
        every_tile(rules.fit_nodes.output.nodes),
        every_region(rules.summarise_checks.output.checks),


rule report_filters:
    input:
        ledger=per_period(rules.filter_segments.output.ledger),
        lib=lib("atl06/report"),
    output:
        table="results/{region}/altimetry/filter_report.parquet",
    log:
        "logs/{region}/report_filters.log",
    benchmark:
        "logs/{region}/report_filters.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        # A year's ledger of a hundred gigabytes of granules takes half of it.
        mem_mb=memory(1000),
        runtime=minutes(10),
    params:
        periods=lambda wildcards: PERIODS[wildcards.region],
    message:
        "Reporting what each filter costs in {wildcards.region}"
    script:
        "../scripts/report_filters.py"


rule filter_report:
    input:
        every_region(rules.report_filters.output.table),
