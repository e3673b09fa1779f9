"""Where a table came from: code, configuration, inputs, products."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from cryofuse import __version__
from cryofuse.config import digest

#: How the products ask to be cited.
CITATIONS = {
    "atl06": "Smith, B. et al. ATLAS/ICESat-2 L3A Land Ice Height (ATL06). NASA NSIDC DAAC.",
    "atl11": (
        "Smith, B. et al. ATLAS/ICESat-2 L3B Slope-Corrected Land Ice Height Time Series "
        "(ATL11). NASA NSIDC DAAC."
    ),
    "jpl": (
        "Watkins et al. 2015, doi:10.1002/2014JB011547; Wiese et al. 2016, "
        "doi:10.1002/2016WR019344; Landerer et al. 2020, doi:10.1029/2020GL088306."
    ),
    "csr": "Save et al. 2016, doi:10.1002/2016JB013007.",
    "gsfc": "Loomis et al. 2019, doi:10.1007/s00190-019-01252-y.",
}


@cache
def code_digest() -> str:
    """Return a digest of the package's own source files, so that an edit shows."""
    root = Path(__file__).parent
    return digest({str(p.relative_to(root)): p.read_text() for p in sorted(root.rglob("*.py"))})


def deciding(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a configuration that decides results: not who works, and where."""
    kept = {key: value for key, value in config.items() if key != "compute"}
    if "learning" in kept:
        kept["learning"] = {k: v for k, v in kept["learning"].items() if k != "master"}
    return kept


def provenance(snakemake: Any) -> dict[str, Any]:
    """Return the provenance of a job's outputs as plain values.

    Parameters
    ----------
    snakemake
        The object that Snakemake hands to a script.
    """
    inputs = [str(name) for name in snakemake.input if not str(name).endswith(".py")]
    altimetry = snakemake.config.get("altimetry", {}).get("product", "atl06")
    product = snakemake.config.get("mascons", {}).get("product", "jpl")
    return {
        "version": __version__,
        "code": code_digest(),
        "config": digest(deciding(snakemake.config)),
        "rule": snakemake.rule,
        "wildcards": dict(snakemake.wildcards.items()),
        "source": snakemake.config.get("source", ""),
        "inputs": sorted(inputs),
        "citations": [CITATIONS[altimetry], CITATIONS[product]],
    }
