"""A small archive on loopback that speaks what earthaccess and CMR speak, with faults on demand.

>>> with LoopbackArchive(folder) as archive:  # doctest: +SKIP
...     archive.add_collection("ATL06", "007", ["ATL06_….h5"])
...     archive.fault("503", match="ATL06_…", times=2)
"""

from tests.archive.archive import LoopbackArchive
from tests.archive.catalogue import GranuleEntry
from tests.archive.faults import Fault
from tests.archive.login import LoginHostError
from tests.archive.server import LogEntry, Request, Response

__all__ = [
    "Fault",
    "GranuleEntry",
    "LogEntry",
    "LoginHostError",
    "LoopbackArchive",
    "Request",
    "Response",
]
