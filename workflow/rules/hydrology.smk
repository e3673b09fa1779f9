# Candidates of active subglacial lakes.


rule find_lakes:
    input:
        nodes=per_tile(rules.fit_nodes.output.nodes),
        node_months=per_tile(rules.fit_nodes.output.node_months),
        mascons=rules.read_mascons.output.mascons,
        lib=lib("hydrology/lakes", "hydrology/inventory"),
        region=region_files("outline"),
        inventory=lake_inventory,
    output:
        lakes="results/{region}/hydrology/lakes.parquet",
        lake_months="results/{region}/hydrology/lake_months.parquet",
        lake_events="results/{region}/hydrology/lake_events.parquet",
        searched_nodes="results/{region}/hydrology/searched_nodes.parquet",
        inventory_matches="results/{region}/hydrology/inventory_matches.parquet",
    log:
        "logs/{region}/find_lakes.log",
    benchmark:
        "logs/{region}/find_lakes.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=memory(1500, 2),
        runtime=minutes(20, 0.05),
    params:
        hydrology=settings("hydrology"),
        elevation=settings("elevation"),
        region=region_settings,
    message:
        "Looking for active lakes in {wildcards.region}"
    script:
        "../scripts/find_lakes.py"


rule hydrology:
    input:
        every_region(rules.find_lakes.output.lakes),
