# Nodes to mascons, mascons to features.


rule fuse_mascons:
    input:
        mascons=rules.read_mascons.output.mascons,
        mass=rules.read_mascons.output.mass,
        nodes=per_tile(rules.fit_nodes.output.nodes),
        node_months=per_tile(rules.fit_nodes.output.node_months),
        causal=per_tile(rules.fit_nodes.output.causal),
        lib=lib("fusion/aggregate"),
    output:
        retrospective="results/{region}/fusion/mascon_months.parquet",
        causal="results/{region}/fusion/mascon_months_causal.parquet",
    log:
        "logs/{region}/fuse_mascons.log",
    benchmark:
        "logs/{region}/fuse_mascons.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        # All nodes, and the months of one tile at a time, which are most of the input.
        mem_mb=memory(2000, 0.3),
        runtime=minutes(15, 0.01),
    params:
        fusion=settings("fusion"),
        elevation=settings("elevation"),
        period=settings("period"),
        region=region_settings,
    message:
        "Averaging the nodes of {wildcards.region} over its mascons"
    script:
        "../scripts/fuse_mascons.py"


rule build_features:
    input:
        fusion=rules.fuse_mascons.output.causal,
        mascons=rules.read_mascons.output.mascons,
        nodes=per_tile(rules.fit_nodes.output.nodes),
        manifests=per_period(MANIFEST),
        lib=lib("fusion/card", "acquire/manifest"),
        region=region_files("coast"),
    output:
        features=directory("results/{region}/features"),
        ledger="results/{region}/features_ledger.parquet",
        card=report(
            "results/{region}/features_card.md",
            caption="../report/features_card.rst",
            category="0 Summary",
            labels={"figure": "data card of the features", "region": "{region}"},
        ),
        card_json="results/{region}/features_card.json",
    log:
        "logs/{region}/build_features.log",
    benchmark:
        "logs/{region}/build_features.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=memory(1500, 4),
        runtime=minutes(15, 0.05),
    params:
        features=settings("features"),
        region=region_settings,
    message:
        "Building the features of {wildcards.region}"
    script:
        "../scripts/build_features.py"


rule fusion:
    input:
        every_region(rules.fuse_mascons.output.retrospective),


rule features:
    input:
        every_region(rules.build_features.output.features),
