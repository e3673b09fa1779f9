"""The manifest: which files a period has and which of them count.

What a name says is its product's (:mod:`cryofuse.altimetry`). The archive holds a granule in
several releases and revisions; one file of each is used.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from cryofuse.altimetry import GranuleName, load_product
from cryofuse.calendar import TIME_DTYPE
from cryofuse.tables import MANIFEST


@dataclass(frozen=True)
class GranuleFile:
    """A file of a granule: where it is, its size (bytes), and why it could not be had."""

    path: str
    size_bytes: int | None = None
    reason: str | None = None


def used_granules(manifests: pd.DataFrame) -> pd.DataFrame:
    """Return the granules of a run's manifests that were read, each once.

    A file of many cycles stands in the manifest of every period that it touches.

    Parameters
    ----------
    manifests
        Rows of ``MANIFEST``, of any number of periods.
    """
    read = manifests[manifests[["superseded_by", "reason"]].isna().all(axis=1)]
    return read.drop_duplicates("granule", ignore_index=True)


def missing_granules(manifest: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of a manifest whose files are to be read and are not there."""
    used = used_granules(manifest)
    there = [Path(path).is_file() for path in used["path"]]
    return used[~np.array(there, bool)].reset_index(drop=True)


def build_manifest(
    files: Iterable[GranuleFile],
    first: np.datetime64,
    stop: np.datetime64,
    product: str = "atl06",
) -> pa.Table:
    """Return the manifest of a period: its files by name, the ones replaced marked so.

    A file is listed in every period that its name's span of time touches: for ATL06 the one
    that holds its start.

    Of several files of one granule the one of the highest rank counts: the highest release,
    then the highest revision (ATL11: then the last cycle, then the revision).
    Where both are equal a file that could be had goes before one that could not, the whole
    granule before a subset, then the larger file, then the first path.

    Parameters
    ----------
    files
        Files with names of the product, in any order.
    first, stop
        The period: first instant, and first instant after it.
    product
        Altimetry product.

    Returns
    -------
    pyarrow.Table
        Of contract MANIFEST, sorted by granule and path.

    Raises
    ------
    ValueError
        If a name is not one of the product.
    """
    parse_name = load_product(product).parse_name
    named = [(parse_name(file.path), file) for file in files]
    named = [(name, file) for name, file in named if name.touches(first, stop)]
    named.sort(key=lambda pair: (pair[0].granule, pair[1].path))
    best: dict[tuple[Any, ...], tuple[GranuleName, GranuleFile]] = {}
    for pair in named:
        known = best.get(pair[0].identity)
        if known is None or _rank(*pair) > _rank(*known):
            best[pair[0].identity] = pair
    rows = []
    for name, file in named:
        kept_name, kept = best[name.identity]
        replaced = kept.path != file.path
        rows.append(
            {
                "granule": name.granule,
                "path": file.path,
                "size_bytes": file.size_bytes,
                "start_time": name.start_time.astype(TIME_DTYPE).item(),
                "rgt": name.rgt,
                "cycle": name.cycle,
                "orbit_region": name.orbit_region,
                "release": name.release,
                "revision": name.revision,
                "superseded_by": kept_name.granule if replaced else None,
                "reason": _why(name, kept_name) if replaced else file.reason,
            }
        )
    return pa.Table.from_pylist(rows, schema=MANIFEST.schema)


def _rank(name: GranuleName, file: GranuleFile) -> tuple[Any, ...]:
    """Return what decides between two files of one granule; on a tie the first path stays."""
    return (
        name.rank,
        file.reason is None,
        not name.subset,
        file.size_bytes or 0,
    )


def _why(name: GranuleName, kept: GranuleName) -> str:
    if name.rank == kept.rank:
        return (
            f"another file of the same granule, release {name.release} and revision "
            f"{name.revision} is used"
        )
    return f"release {kept.release} revision {kept.revision} of the same granule is used"


def equal_copies(manifest: pa.Table) -> list[str]:
    """Return granules that lie in more than one file of the same release and revision.

    Such files may be copies, or subsets of different places of which only one is used: the
    user is told.
    """
    rows = manifest.select(["granule", "superseded_by"]).to_pylist()
    return sorted(
        {
            row["granule"]
            for row in rows
            if row["superseded_by"]
            and row["granule"].removeprefix("processed_")
            == row["superseded_by"].removeprefix("processed_")
        }
    )
