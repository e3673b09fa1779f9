"""Serve a folder for a rehearsal: ``python -m tests.archive FOLDER``."""

import argparse
import signal
import threading
from collections import defaultdict
from pathlib import Path

from tests.archive import LoopbackArchive

_MASCONS = "TELLUS_GRAC-GRFO_MASCON_CRI_GRID_RL06.3_V4"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.archive", description=__doc__)
    parser.add_argument("folder", type=Path, help="ATL06 (.h5) and JPL mascon (.nc) files")
    parser.add_argument("--rate", type=float, help="bytes per second of all connections together")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before each answer")
    parser.add_argument("--login", action="store_true", help="serve https://localhost:443, too")
    asked = parser.parse_args()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with LoopbackArchive(
        asked.folder, login=asked.login, rate_bytes_s=asked.rate, latency_s=asked.latency
    ) as archive:
        releases = defaultdict(list)
        for path in sorted(asked.folder.rglob("*ATL06_*_*_*_*.h5")):
            releases[path.stem.split("_")[-2]].append(path.resolve())
        for release, paths in releases.items():
            archive.add_collection("ATL06", release, paths)
        mascons = [path.resolve() for path in sorted(asked.folder.rglob("*.nc"))]
        archive.add_collection(_MASCONS, "RL06.3Mv04", mascons, provider="POCLOUD")
        print("source: earthdata\ndownload:\n  trusted_hosts: [127.0.0.1]\n  system:")
        for key, value in archive.system().items():
            print(f"    {key}: {value}")
        if asked.login:
            print(f"# export REQUESTS_CA_BUNDLE={archive.ca_bundle}")
            print(
                f"# export EARTHDATA_USERNAME={archive.username} "
                f"EARTHDATA_PASSWORD={archive.password}"
            )
        else:
            print(f"# export EARTHDATA_TOKEN={archive.token}")
        for release, paths in releases.items():
            print(f"# ATL06 {release}: {len(paths)} granules")
        print(f"# {_MASCONS}: {len(mascons)} files", flush=True)
        stop.wait()


if __name__ == "__main__":
    main()
