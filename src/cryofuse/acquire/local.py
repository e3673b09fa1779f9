"""Granules that already lie in a folder."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import pyarrow as pa

from cryofuse.acquire.listing import walk_granules
from cryofuse.acquire.manifest import GranuleFile, build_manifest, equal_copies
from cryofuse.altimetry import load_product
from cryofuse.logs import UserError

_LOG = logging.getLogger(__name__)


def list_local(
    folder: str | os.PathLike[str],
    first: np.datetime64,
    stop: np.datetime64,
    product: str = "atl06",
) -> pa.Table:
    """Return the manifest of a period's granules in a folder, searched in depth.

    Parameters
    ----------
    folder
        Folder of the product's files; other files in it are passed over.
    first, stop
        The period: first instant, and first instant after it.
    product
        Altimetry product.

    Returns
    -------
    pyarrow.Table
        Of contract MANIFEST.

    Raises
    ------
    UserError
        If there is no such folder.
    """
    if not Path(folder).is_dir():
        title = load_product(product).TITLE
        raise UserError(
            f"local: {product}_dir: no folder {folder}; name the folder of {title} granules"
        )
    files = []
    for entry in walk_granules(str(folder), product):
        try:
            load_product(product).parse_name(entry.name)
        except ValueError as error:
            _LOG.warning("passed over: %s", error)
            continue
        files.append(GranuleFile(entry.path, _size(entry)))
    manifest = build_manifest(files, first, stop, product)
    for granule in equal_copies(manifest):
        _LOG.warning("%s: several files of one release and revision; one is used", granule)
    return manifest


def _size(entry: os.DirEntry[str]) -> int | None:
    """Return a file's size, None for a link that leads nowhere."""
    try:
        return entry.stat().st_size
    except OSError:
        return None
