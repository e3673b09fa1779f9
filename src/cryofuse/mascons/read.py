"""One door to the mascon products of all centres."""

from __future__ import annotations

import logging
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

import numpy as np

from cryofuse.logs import UserError
from cryofuse.mascons.footprints import measure_footprints
from cryofuse.mascons.solutions import Extent, Solutions, reading, tabulate_mass

if TYPE_CHECKING:
    import geopandas
    import pandas as pd

logger = logging.getLogger(__name__)


class GravimetryProduct(Protocol):
    """What a module of a gravimetry product offers; everything after it knows no product."""

    def read_solutions(
        self,
        path: str,
        land_mask: str | None,
        extent: Extent | None,
        footprints: geopandas.GeoDataFrame | None,
        mapping: str | None,
    ) -> Solutions:
        """Return a file's solutions, a column for each mascon.

        Parameters
        ----------
        path
            File of the product.
        land_mask
            Separate land mask, for products that keep it apart; others take no notice of it.
        extent
            West, south, east, north (degrees): only mascons that touch it are needed.
        footprints
            Known outlines (``mascon_id``, ``geometry``) that a product without whole outlines
            of its own may take.
        mapping
            File that says which sample each grid cell belongs to, for products that keep it
            apart.

        Raises
        ------
        UserError
            In one line, if the file is not what the product's layout says.
        OSError
            If it cannot be opened.
        """
        ...


#: Products and the module that reads each (a :class:`GravimetryProduct`).
PRODUCTS = {
    "jpl": "cryofuse.mascons.jpl",
    "csr": "cryofuse.mascons.csr",
    "gsfc": "cryofuse.mascons.gsfc",
}


def read_mascons(
    path: str,
    product: str,
    land_mask: str | None = None,
    *,
    extent: Extent | None = None,
    footprints: geopandas.GeoDataFrame | None = None,
    mapping: str | None = None,
) -> tuple[geopandas.GeoDataFrame, pd.DataFrame]:
    """Read a mascon file of any product into the two tables of gravimetry.

    Parameters
    ----------
    path
        File of the product.
    product
        ``jpl``, ``csr`` or ``gsfc``.
    land_mask
        Separate land mask (CSR only).
    extent
        West, south, east, north (degrees): only mascons that touch it are read.
    footprints
        Known outlines (``mascon_id``, ``geometry``): in place of blocks that a crop may have cut
        (JPL), or to average onto when a file has no tiles of its own (CSR).
    mapping
        File that names each cell's tile (CSR only).

    Returns
    -------
    mascons
        GeoDataFrame (longitude/latitude): mascon_id, area_km2, land_area_km2, latitude,
        longitude, geometry (and ``beyond_file`` where a crop may have cut known outlines, which
        :func:`cryofuse.mascons.measure_ice` judges); ``attrs`` hold product, release, unit, whose
        footprints they are, and the origin of σ.
    mass
        Table of the contract ``MASS``: every month between the first and the last solution.

    Raises
    ------
    UserError
        If the file is missing, or is not what the product's reader expects.
    """
    if product not in PRODUCTS:
        raise UserError(f"mascons: product: {product!r} is none of {', '.join(PRODUCTS)}")
    for name in filter(None, (path, land_mask, mapping)):
        if not Path(name).is_file():
            raise UserError(f"no mascon file {name}")
    with reading(str(path), f"a file of {product} mascons"):
        module = cast(GravimetryProduct, import_module(PRODUCTS[product]))
        solutions = module.read_solutions(str(path), land_mask, extent, footprints, mapping)
    empty = np.isnan(solutions.lwe_cm).all(axis=1)
    if empty.all():
        raise UserError(f"{path}: every solution holds only fill over the region")
    for number in np.flatnonzero(empty):
        logger.warning(
            "%s: solution %d (%s to %s) holds only fill: its month is null",
            path, number, *(str(side[number])[:10] for side in (solutions.start, solutions.end)),
        )  # fmt: skip
    mass = tabulate_mass(solutions, str(path))
    mascons = measure_footprints(solutions.mascons)
    mascons.attrs = {
        "product": solutions.product,
        "release": solutions.release,
        "unit": solutions.unit,
        "sigma": solutions.sigma,
        "footprints": solutions.footprints,
        "solutions": int(solutions.start.size),
    }
    return mascons, mass
