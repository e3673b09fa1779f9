"""Adapter of rule build_features: the causal table in, partitioned features and ledger out."""

from typing import Any

import pandas as pd

from cryofuse.config import FeatureSettings, RegionSettings
from cryofuse.fusion.features import (
    NODE_COLUMNS,
    build_features,
    summarise_nodes,
    write_features,
)
from cryofuse.geo import read_vector
from cryofuse.logs import job_log
from cryofuse.provenance import provenance
from cryofuse.tables import FEATURES_LEDGER, read_geo_table, read_table, write_table


def main(snakemake: Any) -> None:
    """Run the job."""
    with job_log(snakemake.log[0]):
        settings = FeatureSettings.model_validate(snakemake.params.features)
        region = RegionSettings.model_validate(snakemake.params.region)
        mascons = read_geo_table(snakemake.input.mascons)
        files = snakemake.input.nodes
        nodes = pd.concat(
            [
                read_table(path, NODE_COLUMNS)
                for path in ([files] if isinstance(files, str) else sorted(files))
            ],
            ignore_index=True,
        )
        coast = read_vector(region.coast, region.crs) if region.coast else None
        static, reasons = summarise_nodes(mascons, nodes, settings, coast)
        features, ledger = build_features(
            read_table(snakemake.input.fusion), mascons, static, settings, reasons
        )
        origin = provenance(snakemake)
        write_table(ledger, snakemake.output.ledger, FEATURES_LEDGER, origin)
        write_features(features, snakemake.output.features, snakemake.wildcards.region, origin)


if __name__ == "__main__":
    main(snakemake)
