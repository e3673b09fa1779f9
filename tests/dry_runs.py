"""Snakemake's command line in a process that has imported it before: a dry run in half the time."""

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.conftest import ROOT

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["snakemake.cli", "snakemake.dag", "cryofuse.config"])


def _type(arguments: Sequence[str], out: str, err: str) -> None:
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY), number)
    os.chdir(ROOT)
    sys.argv = ["snakemake", *arguments]
    from snakemake.cli import main

    main(arguments)


def type_snakemake(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run ``snakemake …`` in the project's root, and return what it said."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        out.touch()
        err.touch()
        process = _SERVER.Process(target=_type, args=(arguments, str(out), str(err)))
        process.start()
        process.join()
        return subprocess.CompletedProcess(
            arguments, process.exitcode or 0, out.read_text(), err.read_text()
        )
