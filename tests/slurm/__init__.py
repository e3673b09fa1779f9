"""Runs on a real Slurm, on loopback; ``python -m tests.slurm up FOLDER`` for a rehearsal."""
