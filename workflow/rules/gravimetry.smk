# A mascon file to footprints and monthly mass.


rule read_mascons:
    input:
        unpack(mascon_inputs),
        lib=lib(
            "mascons/read",
            "mascons/jpl",
            "mascons/csr",
            "mascons/gsfc",
            "mascons/footprints",
            "mascons/basins",
            "rasters",
        ),
        data=data("jpl_mascons_greenland.csv"),
        region=region_files(
            "outline",
            "ice_mask",
            *(["basins"] if CONFIG.fusion.unit == "basin" else []),
        ),
    output:
        mascons="results/{region}/gravimetry/mascons.parquet",
        mass="results/{region}/gravimetry/mass.parquet",
    log:
        "logs/{region}/read_mascons.log",
    benchmark:
        "logs/{region}/read_mascons.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=memory(2000, 4),
        runtime=minutes(15, 0.02),
    params:
        fusion=lambda wildcards: {"unit": CONFIG.fusion.unit},
        mascons=settings("mascons"),
        region=region_settings,
    message:
        "Reading mascons over {wildcards.region}"
    script:
        "../scripts/read_mascons.py"


rule gravimetry:
    input:
        every_region(rules.read_mascons.output.mass),
