"""Adapter of rule build_features: the causal table in, features, ledger and data card out."""

import json
from typing import Any

import pandas as pd

from cryofuse.acquire.manifest import used_granules
from cryofuse.config import FeatureSettings, RegionSettings
from cryofuse.fusion.card import describe_features, render_card
from cryofuse.fusion.features import (
    NODE_COLUMNS,
    build_features,
    summarise_nodes,
    write_features,
)
from cryofuse.geo import read_vector
from cryofuse.logs import job_log
from cryofuse.provenance import provenance
from cryofuse.tables import (
    FEATURES_LEDGER,
    read_geo_table,
    read_provenance,
    read_table,
    write_table,
    written,
)


def main(snakemake: Any) -> None:
    """Run the job."""
    with job_log(snakemake.log[0]):
        settings = FeatureSettings.model_validate(snakemake.params.features)
        region = RegionSettings.model_validate(snakemake.params.region)
        mascons = read_geo_table(snakemake.input.mascons)
        nodes = pd.concat(
            [read_table(path, NODE_COLUMNS) for path in _paths(snakemake.input.nodes)],
            ignore_index=True,
        )
        coast = read_vector(region.coast, region.crs) if region.coast else None
        static, reasons = summarise_nodes(mascons, nodes, settings, coast)
        features, ledger = build_features(
            read_table(snakemake.input.fusion), mascons, static, settings, reasons
        )
        origin = provenance(snakemake)
        write_table(ledger, snakemake.output.ledger, FEATURES_LEDGER, origin)
        name = snakemake.wildcards.region
        write_features(features, snakemake.output.features, name, origin)
        granules = pd.concat(
            [
                read_table(path, ["granule", "release", "superseded_by", "reason"])
                for path in _paths(snakemake.input.manifests)
            ]
        )
        read = used_granules(granules)
        products = {
            "altimetry": {
                "granules": len(read),
                "by release": read["release"].value_counts().sort_index().to_dict(),
            },
            "gravimetry": read_provenance(snakemake.input.mascons).get("gravimetry", {}),
        }
        card = describe_features(features, ledger, settings, name, products, origin)
        with written(snakemake.output.card_json) as path:
            path.write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n")
        with written(snakemake.output.card) as path:
            path.write_text(render_card(card))


def _paths(files: Any) -> list[str]:
    return [files] if isinstance(files, str) else sorted(files)


if __name__ == "__main__":
    main(snakemake)
