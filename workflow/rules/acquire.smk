# The first file of each chain: a manifest of granules per period, and a mascon file.
# Nothing after this file knows which source they came from.

PRODUCT = CONFIG.altimetry.product
MANIFEST = f"results/{{region}}/acquire/{PRODUCT}/{{period}}.parquet"

if CONFIG.source == "local":

    # It reads names and sizes of files: seconds, 200 MB.
    localrules:
        list_granules,

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

    # One file of mascons: seconds, 400 MB whatever the tracks are.
    localrules:
        simulate_mascons,

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
            # Altimetry knows nothing of the months that gravimetry lacks.
            world=settings("world", "absent_months"),
            elevation=world_elevation,
            period=period_months,
            region=region_settings,
        message:
            "Writing the synthetic granules of {wildcards.period}"
        script:
            "../scripts/simulate_granules.py"

    rule simulate_mascons:
        input:
            lib=lib("simulate/world", "simulate/mascons", "simulate/lake_inventory"),
            data=data("jpl_mascons_greenland.csv"),
            raster=[CONFIG.world.rate_raster] if CONFIG.world.rate_raster else [],
            region=region_files("outline"),
        output:
            **mascon_companions("{region}"),
            mascons=mascon_file("{region}"),
            inventory=PLANTED_INVENTORY,
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
            "Writing the synthetic mascon file, the inventory of lakes and the truth"
        script:
            "../scripts/simulate_mascons.py"

else:

    # Credentials are read where Snakemake runs, by these rules alone; nodes have no network.
    localrules:
        check_log_in,
        plan,
        plan_granules,
        plan_collection,
        download_granules,
        hold_granules,
        remove_granules,
        download_mascons,
        download_raster,

    # Wrong credentials are told once, not for each period.
    rule check_log_in:
        input:
            lib=lib("acquire/credentials"),
        output:
            checked=LOG_IN,
        log:
            "logs/check_log_in.log",
        benchmark:
            "logs/check_log_in.tsv"
        conda:
            ENVIRONMENT
        threads: 1
        resources:
            mem_mb=memory(600),
            runtime=minutes(10),
        params:
            system=CONFIG.download.model_dump(mode="json", include={"system"}),
        message:
            "Logging in"
        script:
            "../scripts/check_log_in.py"

    rule plan_granules:
        input:
            ancient(LOG_IN),
            lib=lib("acquire/credentials", "acquire/plan", "acquire/scope"),
            region=region_files("outline"),
        output:
            plan=GRANULE_PLAN,
        log:
            "logs/{region}/plan_granules/{period}.log",
        benchmark:
            "logs/{region}/plan_granules/{period}.tsv"
        wildcard_constraints:
            # A plan that is there fixes what is fetched: no rule makes it anew.
            period=unplanned_periods(),
        conda:
            ENVIRONMENT
        threads: 1
        resources:
            mem_mb=memory(600),
            runtime=minutes(60),
        params:
            period=period_months,
            region=region_area,
        message:
            "Planning the granules of {wildcards.period}"
        script:
            "../scripts/plan_granules.py"

    rule plan_collection:
        input:
            ancient(LOG_IN),
            lib=lib("acquire/credentials", "acquire/plan"),
        output:
            plan=COLLECTION_PLAN,
        log:
            "logs/plan_collection/{collection}.log",
        benchmark:
            "logs/plan_collection/{collection}.tsv"
        wildcard_constraints:
            collection=unplanned_collections(),
        conda:
            ENVIRONMENT
        threads: 1
        resources:
            mem_mb=memory(600),
            runtime=minutes(60),
        params:
            file=lambda wildcards: archive_file(wildcards.collection),
        message:
            "Planning the file of {wildcards.collection}"
        script:
            "../scripts/plan_collection.py"

    # It has no output, a benchmark neither, so that it tells each time it is asked for.
    rule plan:
        input:
            lib=lib("acquire/earthdata"),
            granules=every_period(GRANULE_PLAN),
            collections=[COLLECTION_PLAN.format(collection=key) for key in ARCHIVED],
        log:
            "logs/plan.log",
        conda:
            ENVIRONMENT
        threads: 1
        resources:
            mem_mb=memory(600),
            runtime=minutes(10),
        params:
            plain=plain_files(),
        message:
            "What the plans hold"
        script:
            "../scripts/summarise_plans.py"

    rule download_granules:
        input:
            plan=GRANULE_PLAN,
            lib=lib("acquire/earthdata", "acquire/harmony", "acquire/scope"),
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
            period=period_months,
            subset=CONFIG.download.subset,
            region=region_area,
        message:
            "Fetching the granules of {wildcards.period}"
        script:
            "../scripts/download_granules.py"

    # The raw granules are no output of a job: Snakemake deletes those of a failed one. This mark
    # says that they are in the cache; without it they are looked for, and fetched if allowed.
    # What uses and removes raw granules goes before what fetches more of them.
    rule hold_granules:
        input:
            manifest=MANIFEST,
            plan=ancient(GRANULE_PLAN),
            lib=lib("acquire/earthdata", "acquire/harmony"),
        output:
            held=HELD if CONFIG.download.keep_raw else temp(HELD),
        log:
            "logs/{region}/hold_granules/{period}.log",
        benchmark:
            "logs/{region}/hold_granules/{period}.tsv"
        priority: 1
        conda:
            ENVIRONMENT
        threads: 1
        resources:
            mem_mb=memory(1000),
            runtime=minutes(600),
        params:
            region=region_area,
        message:
            "Looking for the raw granules of {wildcards.period}"
        script:
            "../scripts/hold_granules.py"

    rule remove_granules:
        input:
            lambda wildcards: shared_subsets(wildcards.region, wildcards.period),
            manifest=MANIFEST,
            lib=lib("acquire/earthdata"),
        output:
            record=REMOVED,
        log:
            "logs/{region}/remove_granules/{period}.log",
        benchmark:
            "logs/{region}/remove_granules/{period}.tsv"
        priority: 1
        conda:
            ENVIRONMENT
        threads: 1
        resources:
            mem_mb=memory(600),
            runtime=minutes(10),
        params:
            keep_raw=CONFIG.download.keep_raw,
        message:
            "Removing the raw granules of {wildcards.period}"
        script:
            "../scripts/remove_granules.py"

    rule download_mascons:
        input:
            plan=mascon_plan(),
            lib=lib("acquire/collections"),
        output:
            **mascon_companions(""),
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
            runtime=minutes(240),
        params:
            plain=plain_files(),
        message:
            "Fetching the mascon file"
        script:
            "../scripts/download_mascons.py"

    rule download_raster:
        input:
            plan=COLLECTION_PLAN,
            lib=lib("acquire/collections"),
        output:
            raster=RASTER,
        log:
            "logs/download_raster/{collection}.log",
        benchmark:
            "logs/download_raster/{collection}.tsv"
        conda:
            ENVIRONMENT
        threads: 1
        resources:
            mem_mb=memory(1000),
            runtime=minutes(240),
        params:
            file=lambda wildcards: archive_file(wildcards.collection),
        message:
            "Fetching the file of {wildcards.collection}"
        script:
            "../scripts/download_raster.py"


rule download:
    input:
        every_period(MANIFEST),
        [mascon_file(name) for name in REGIONS],
        raster_files(),
