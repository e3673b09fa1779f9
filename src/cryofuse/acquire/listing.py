"""What the Snakefile needs of a folder of granules while it is parsed: nothing but names."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import numpy as np

from cryofuse.calendar import TIME_DTYPE
from cryofuse.config import digest

_START = re.compile(r"ATL06_(\d{4})(\d{2})(\d{2})\d{6}_\d{8}_\d{3}_\d{2}\.h5$")


def walk_granules(folder: str) -> Iterator[os.DirEntry[str]]:
    """Yield the entries of ATL06 files below a folder, links followed, in any order."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from walk_granules(entry.path)
            elif _START.search(entry.name):
                yield entry


def folder_digest(folder: str, first: np.datetime64, stop: np.datetime64) -> str:
    """Return a digest of the granules in a folder that start in a period: names, sizes, times.

    Parameters
    ----------
    folder
        Folder, searched in depth; a missing one gives the digest of nothing.
    first, stop
        The period: first instant, and first instant after it.
    """
    if not os.path.isdir(folder):
        return digest([])
    found = []
    for entry in walk_granules(folder):
        match = _START.search(entry.name)
        day = np.datetime64("-".join(match.groups()), "D").astype(TIME_DTYPE) if match else None
        if day is not None and first <= day < stop:
            status = entry.stat()
            found.append([os.path.relpath(entry.path, folder), status.st_size, status.st_mtime_ns])
    return digest(sorted(found))
