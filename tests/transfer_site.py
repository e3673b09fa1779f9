"""An archive, a cache, and what tests of transfers ask of both."""

import hashlib

import requests

from cryofuse.acquire.credentials import Sessions, log_in
from cryofuse.acquire.inspect import inspect_granule
from cryofuse.acquire.transfer import Transfers, Wanted
from cryofuse.config import DownloadSettings
from tests.atl06_files import granule_name

TOKEN = "token-of-the-tests-that-nobody-may-see"


def digest(content, algorithm="sha256"):
    return hashlib.new(algorithm, content).hexdigest()


class Site:
    """An archive of five granules, and a cache."""

    def __init__(self, archive, folder):
        self.archive, self.root = archive, folder
        self.cache = folder / "cache"
        self.folder = self.cache / "atl06"
        self.names = [granule_name(number) for number in range(5)]
        self.content = {path.name: path.read_bytes() for path in archive.folder.glob("*.h5")}
        self.told = None

    def settings(self, **changes):
        options = {
            "cache_dir": str(self.cache),
            "parallel": 2,
            "tries": 4,
            "timeout_s": 2.0,
            "backoff_s": 0.01,
            "max_wait_s": 2.0,
            "trusted_hosts": ["127.0.0.1"],
            "system": self.archive.system(),
        }
        return DownloadSettings(**(options | changes))

    def wanted(self, name, **changes):
        content = self.content[name]
        announced = {
            "url": self.archive.url(name),
            "size_bytes": len(content),
            "checksum": digest(content),
            "checksum_algorithm": "SHA-256",
        }
        return Wanted(name, **(announced | changes))

    def run(self, files=None, share=0.5, inspect=inspect_granule, public=False, **changes):
        chosen = self.settings(**changes)
        sessions = Sessions() if public else Sessions(log_in(chosen.system), chosen.system)
        try:
            transfers = Transfers(chosen, sessions, inspect, self.told)
            files = [self.wanted(name) for name in self.names] if files is None else files
            return transfers.fetch_all(files, self.folder, share)
        finally:
            sessions.close()

    def arrived(self):
        """Names of the files that are there; each is the archive's, to the byte."""
        names = sorted(p.name for p in self.folder.glob("*") if not p.name.startswith("."))
        for name in names:
            assert (self.folder / name).read_bytes() == self.content[name]
        return names

    def left(self):
        """Hidden files: parts, marks, what proved bad."""
        return sorted(p.name for p in self.folder.glob(".*"))

    def aside(self):
        return {p.name: p for p in (self.cache / "quarantine").glob("*")}

    def part(self, name, content=None, mark=None):
        """Leave what a killed run leaves."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / f".{name}.part").write_bytes(content)
        if mark:
            (self.folder / f".{name}.etag").write_text(mark)

    def mark(self, url):
        headers = {"Authorization": f"Bearer {TOKEN}"}
        return requests.head(url, headers=headers, timeout=5).headers["ETag"]
