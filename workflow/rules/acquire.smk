# The first file of each chain: a manifest of granules per period, and a mascon file.
# Nothing after this file knows which source they came from.

PRODUCT = CONFIG.altimetry.product
MANIFEST = f"results/{{region}}/acquire/{PRODUCT}/{{period}}.parquet"

if CONFIG.source == "local":

    rule list_granules:
        input:
            lib=lib("acquire/local", "atl06/product", "atl11/product"),
        output:
            manifest=MANIFEST,
        log:
            "logs/{region}/list_granules/{period}.log",
        benchmark:
            "logs/{region}/list_granules/{period}.tsv"
        conda:
            ENVIRONMENT
        threads: 1
        resources:
            mem_mb=memory(600),
            runtime=minutes(10),
        params:
            altimetry=settings("altimetry"),
            local=settings("local"),
            period=period_months,
            # A granule added to the folder or changed there lists its period again.
            folder=lambda wildcards: folder_digest(
                getattr(CONFIG.local, f"{PRODUCT}_dir"),
                *clip_period(
                    wildcards.period,
                    REGIONAL[wildcards.region].period.start,
                    REGIONAL[wildcards.region].period.end,
                ),
                PRODUCT,
            ),
        message:
            "Listing the granules of {wildcards.period}"
        script:
            "../scripts/list_granules.py"

elif CONFIG.source == "synthetic":

    rule simulate_granules:
        input:
            lib=lib("simulate/world", "simulate/orbit", "simulate/granules"),
            data=data("atl06_v006_layout.csv"),
            raster=[CONFIG.world.rate_raster] if CONFIG.world.rate_raster else [],
            region=region_files("outline"),
        output:
            manifest=MANIFEST,
        log:
            "logs/{region}/simulate_granules/{period}.log",
        benchmark:
            "logs/{region}/simulate_granules/{period}.tsv"
        conda:
            ENVIRONMENT
        threads: 1
        resources:
            mem_mb=memory(1200),
            runtime=minutes(30),
        params:
            world=settings("world"),
            elevation=world_elevation,
            period=period_months,
            region=region_settings,
        message:
            "Writing the synthetic granules of {wildcards.period}"
        script:
            "../scripts/simulate_granules.py"

    rule simulate_mascons:
        input:
            lib=lib("simulate/world", "simulate/mascons"),
            data=data("jpl_mascons_greenland.csv"),
            raster=[CONFIG.world.rate_raster] if CONFIG.world.rate_raster else [],
            region=region_files("outline"),
        output:
            **mascon_companions("{region}"),
            mascons=mascon_file("{region}"),
            truth=directory("resources/{region}/synthetic/truth"),
        log:
            "logs/{region}/simulate_mascons.log",
        benchmark:
            "logs/{region}/simulate_mascons.tsv"
        conda:
            ENVIRONMENT
        threads: 1
        resources:
            mem_mb=memory(1500),
            runtime=minutes(20),
        params:
            world=settings("world"),
            elevation=world_elevation,
            period=settings("period"),
            product=CONFIG.mascons.product,
            region=region_settings,
        message:
            "Writing the synthetic mascon file and the truth"
        script:
            "../scripts/simulate_mascons.py"

else:

    localrules:
        download_granules,
        download_mascons,

    rule download_granules:
        input:
            lib=lib("acquire/earthdata"),
            region=region_files("outline"),
        output:
            manifest=MANIFEST,
        log:
            "logs/{region}/download_granules/{period}.log",
        benchmark:
            "logs/{region}/download_granules/{period}.tsv"
        conda:
            ENVIRONMENT
        threads: 1
        resources:
            mem_mb=memory(1000),
            runtime=minutes(600),
        params:
            download=settings("download"),
            period=period_months,
            region=region_settings,
        message:
            "Fetching the granules of {wildcards.period}"
        script:
            "../scripts/download_granules.py"

    rule download_mascons:
        input:
            lib=lib("acquire/earthdata"),
        output:
            mascons=mascon_file(""),
        log:
            "logs/download_mascons.log",
        benchmark:
            "logs/download_mascons.tsv"
        conda:
            ENVIRONMENT
        threads: 1
        resources:
            mem_mb=memory(1000),
            runtime=minutes(120),
        params:
            download=CONFIG.download.model_dump(mode="json"),
            mascons=CONFIG.mascons.model_dump(mode="json"),
        message:
            "Fetching the mascon file"
        script:
            "../scripts/download_mascons.py"


rule download:
    input:
        every_period(MANIFEST),
        [mascon_file(name) for name in REGIONS],
