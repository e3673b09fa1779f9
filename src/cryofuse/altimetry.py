"""Altimetry products: what a module must offer to be one, and the table that names them.

A product is one module (:class:`AltimetryProduct`): its title, the labels of its beams, what a
file name says, and the reader of one file. Everything after ``subset`` sees rows of the
contract SEGMENTS and knows no product. Nothing heavy is imported here: the Snakefile asks for
names while it is parsed, so a product imports its reader when a file is read.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np

if TYPE_CHECKING:
    import os

    import pyarrow as pa

    from cryofuse.atl06.granule import Area
    from cryofuse.atl06.ledger import LedgerRow

#: Reference ground tracks of the repeat orbit.
TRACKS = 1387
#: Regions into which an orbit is cut.
ORBIT_REGIONS = 14

#: First instant of a time span, and first instant after it (datetime64[us]).
Span = tuple[np.datetime64, np.datetime64]

#: Products and the module of each.
PRODUCTS = {"atl06": "cryofuse.atl06.product", "atl11": "cryofuse.atl11.product"}


@dataclass(frozen=True)
class GranuleName:
    """What the name of a file says.

    Parameters
    ----------
    granule
        The name itself.
    start_time, end_time
        Between these instants (both included) lies what decides to which periods the file
        belongs: every segment, or, where a file belongs to one period whole, its start alone.
    rgt, cycle, orbit_region
        Reference ground track, (first) cycle, and region of the orbit.
    release, revision
        As they stand in the name.
    subset
        Whether it is a part that a subsetting service cut out.
    identity
        What all files share of which only one may count.
    rank
        Among files of one identity the one with the largest counts.
    """

    granule: str
    start_time: np.datetime64
    end_time: np.datetime64
    rgt: int
    cycle: int
    orbit_region: int
    release: str
    revision: str
    subset: bool
    identity: tuple[Any, ...]
    rank: tuple[int, ...]

    def touches(self, first: np.datetime64, stop: np.datetime64) -> bool:
        """Return whether the file can hold segments of a period (``stop`` is after it)."""
        return bool(first <= self.end_time and self.start_time < stop)


class AltimetryProduct(Protocol):
    """What a module of an altimetry product offers."""

    #: What file names begin with, after an optional prefix; in lower case the product's key.
    TITLE: str
    #: Labels of column ``beam``.
    BEAMS: tuple[str, ...]

    def parse_name(self, name: str) -> GranuleName:
        """Return what a file name (or the last part of a path) says.

        Raises
        ------
        ValueError
            In one line, if it is not the name of a file of the product.
        """
        ...

    def read_granule(
        self,
        path: str | os.PathLike[str],
        columns: Iterable[str] | None = None,
        region: Area | None = None,
        period: Span | None = None,
    ) -> tuple[pa.Table, list[LedgerRow]]:
        """Return a file's rows of contract SEGMENTS inside a region and a period.

        Whatever is wrong with a file is a ledger row, never an exception. Ledger rows of a
        beam begin with ``read`` (rows of the period), and rows in minus rows removed is the
        number of rows returned. A product whose files belong to one period whole takes no
        notice of ``period``; any other reads each row in one period only.
        """
        ...


def load_product(name: str) -> AltimetryProduct:
    """Return the module of a product.

    Raises
    ------
    ValueError
        If there is no such product.
    """
    if name not in PRODUCTS:
        raise ValueError(f"altimetry: product: {name!r} is none of {', '.join(PRODUCTS)}")
    return cast(AltimetryProduct, import_module(PRODUCTS[name]))


def beam_labels() -> tuple[str, ...]:
    """Return the beams of all products, each once: codes of column ``beam`` in node fits."""
    labels = [label for name in PRODUCTS for label in load_product(name).BEAMS]
    return tuple(dict.fromkeys(labels))


def check_orbit(name: str, rgt: int, orbit_region: int) -> None:
    """Raise unless a name's track and region of the orbit exist.

    Raises
    ------
    ValueError
        With the part that is wrong.
    """
    if not 1 <= rgt <= TRACKS:
        raise ValueError(f"{name!r}: reference ground track {rgt} is not in 1–{TRACKS}")
    if not 1 <= orbit_region <= ORBIT_REGIONS:
        raise ValueError(f"{name!r}: orbit region {orbit_region} is not in 1–{ORBIT_REGIONS}")
