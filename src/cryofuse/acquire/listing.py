"""What the Snakefile needs of a folder of granules while it is parsed: nothing but names."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np

from cryofuse.altimetry import load_product
from cryofuse.config import digest


def walk_granules(folder: str, product: str = "atl06") -> Iterator[os.DirEntry[str]]:
    """Yield the entries below a folder whose names speak of a product, in any order.

    Links are followed. Whether such a name is a right one is asked later.
    """
    title = load_product(product).TITLE
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from walk_granules(entry.path, product)
            elif f"{title}_" in entry.name and entry.name.endswith(".h5"):
                yield entry


def folder_digest(
    folder: str, first: np.datetime64, stop: np.datetime64, product: str = "atl06"
) -> str:
    """Return a digest of a folder's granules that touch a period: names, sizes, times.

    Parameters
    ----------
    folder
        Folder, searched in depth; a missing one gives the digest of nothing.
    first, stop
        The period: first instant, and first instant after it.
    product
        Altimetry product.
    """
    parse_name = load_product(product).parse_name
    if not os.path.isdir(folder):
        return digest([])
    found = []
    for entry in walk_granules(folder, product):
        try:
            name = parse_name(entry.name)
        except ValueError:
            continue
        if name.touches(first, stop):
            status = entry.stat()
            found.append([os.path.relpath(entry.path, folder), status.st_size, status.st_mtime_ns])
    return digest(sorted(found))
