"""Bring a throw-away Slurm up on this machine, and take it down, for tests or a rehearsal."""

import argparse
import sys
from pathlib import Path

from tests.slurm.cluster import PARTITION, LoopbackSlurm, SlurmError

NEXT = """\
A Slurm with the nodes {nodes} is up ({cpus} processors and {memory_mb} MB each; logs in {folder}).
Rehearse from the project's root:

    sinfo
    snakemake --profile slurm --configfile config/demo.yaml {options}
    squeue --states=all --format="%i %T %N %k"

and afterwards:

    python -m tests.slurm down {folder}"""
#: What a Slurm without accounting and waiting users needs beside the profile.
OPTIONS = (
    "--slurm-no-account",
    "--slurm-status-command",
    "squeue",
    "--slurm-init-seconds-before-status-checks",
    "2",
    "--latency-wait",
    "5",
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.slurm", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    up = actions.add_parser("up", help="bring it up")
    up.add_argument("--nodes", type=int, default=2, help="virtual nodes (2)")
    up.add_argument("--memory-mb", type=int, default=16000, help="memory of each (16000)")
    up.add_argument("--cpus", type=int, default=8, help="processors of each (8)")
    down = actions.add_parser("down", help="take it down")
    down.add_argument("--when-closed", action="store_true", help="once standard input is closed")
    for action in (up, down):
        action.add_argument("folder", type=Path, help="where its key, states and logs are")
    asked = parser.parse_args()
    try:
        if asked.action == "up":
            slurm = LoopbackSlurm(asked.folder, asked.nodes, asked.memory_mb, asked.cpus).up()
            print(
                NEXT.format(
                    nodes=", ".join(slurm.nodes),
                    cpus=slurm.cpus,
                    memory_mb=slurm.memory_mb,
                    folder=slurm.folder,
                    options=" ".join(OPTIONS),
                )
            )
        else:
            if asked.when_closed:
                sys.stdin.buffer.read()
            LoopbackSlurm(asked.folder).down()
    except SlurmError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
