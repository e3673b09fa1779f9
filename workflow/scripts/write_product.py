"""Adapter of rule write_product: predicted and observed months in, NetCDF and GeoPackage out."""

from typing import Any

import pandas as pd

from cryofuse.acquire.manifest import used_granules
from cryofuse.logs import job_log
from cryofuse.products.mass_change import (
    build_dataset,
    describe_product,
    write_geopackage,
    write_netcdf,
)
from cryofuse.tables import read_geo_table, read_provenance, read_table


def main(snakemake: Any) -> None:
    """Run the job."""
    given, params = snakemake.input, snakemake.params
    manifests = [given.manifests] if isinstance(given.manifests, str) else given.manifests
    with job_log(snakemake.log[0]):
        granules = used_granules(pd.concat([read_table(path) for path in manifests]))
        attributes = describe_product(
            params.region["title"],
            read_provenance(given.months),
            read_provenance(given.mascons)["gravimetry"],
            params.altimetry,
            granules["release"],
        )
        months, mascons = read_table(given.months), read_geo_table(given.mascons)
        write_netcdf(build_dataset(months, mascons, attributes), snakemake.output.netcdf)
        write_geopackage(months, mascons, params.region["crs"], snakemake.output.geopackage)


if __name__ == "__main__":
    main(snakemake)
