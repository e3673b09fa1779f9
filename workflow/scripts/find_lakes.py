"""Adapter of rule find_lakes: nodes and node months in, lake candidates out."""

from typing import Any

import pandas as pd

from cryofuse.config import HydrologySettings, RegionSettings
from cryofuse.hydrology.inventory import inside_region, match_inventory, read_inventory
from cryofuse.hydrology.lakes import find_lakes
from cryofuse.logs import job_log
from cryofuse.provenance import provenance
from cryofuse.tables import (
    INVENTORY_MATCHES,
    LAKE_EVENTS,
    LAKE_MONTHS,
    LAKES,
    SEARCHED_NODES,
    read_geo_table,
    read_table,
    write_geo_table,
    write_table,
)

MONTH_COLUMNS = ["node_id", "month", "dh_m", "tracks"]


def main(snakemake: Any) -> None:
    """Search the fine nodes of all tiles and compare with the region's inventory."""
    with job_log(snakemake.log[0]) as log:
        settings = HydrologySettings.model_validate(snakemake.params.hydrology)
        region = RegionSettings.model_validate(snakemake.params.region)
        nodes, months = [], []
        pairs = zip(snakemake.input.nodes, snakemake.input.node_months, strict=True)
        for node_file, month_file in pairs:
            tile = read_table(node_file)
            fine = tile[tile["spacing_m"] <= settings.max_node_spacing_m]
            nodes.append(fine)
            if len(fine):
                rows = read_table(month_file, MONTH_COLUMNS)
                months.append(rows[rows["node_id"].isin(fine["node_id"])])
        searched = pd.concat(nodes, ignore_index=True)
        node_months = pd.concat(months, ignore_index=True) if months else None
        mascons = read_geo_table(snakemake.input.mascons)
        found = find_lakes(searched, node_months, mascons, settings, region.crs)
        source = provenance(snakemake)
        log.info(
            "%d of %d nodes searched, %d candidates and look-alikes",
            len(found.nodes),
            len(searched),
            len(found.lakes),
        )
        inventory = None
        # An empty list where there is none.
        file = snakemake.input.get("inventory")
        if file:
            inventory = read_inventory(file)
            here = inside_region(inventory, region, settings.inventory_match_m)
            log.info("inventory: %d of %d lakes lie in the region", here.sum(), here.size)
            source["inventory"] = {"file": str(file), "rows_outside": int((~here).sum())}
            inventory = inventory[here]
        lakes, matches = match_inventory(
            found.lakes, inventory, found.nodes, region.crs, settings.inventory_match_m
        )
        log.info("inventory: %s", matches["outcome"].value_counts().to_dict())
        write_geo_table(lakes, snakemake.output.lakes, LAKES, source)
        write_table(found.months, snakemake.output.lake_months, LAKE_MONTHS, source)
        write_table(found.events, snakemake.output.lake_events, LAKE_EVENTS, source)
        write_table(found.nodes, snakemake.output.searched_nodes, SEARCHED_NODES, source)
        write_table(matches, snakemake.output.inventory_matches, INVENTORY_MATCHES, source)


if __name__ == "__main__":
    main(snakemake)
