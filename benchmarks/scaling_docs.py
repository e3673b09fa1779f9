"""Write the figures of part ``scale`` into docs/scaling.md: ``python -m benchmarks.scaling_docs``.

What is reckoned is reckoned anew from the jobs and dry runs that the result holds.
Each table stands between two comments that name it, ``<!-- scale: NAME -->`` and ``<!-- end -->``.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

from benchmarks import nodes
from benchmarks.measure import ROOT
from benchmarks.report import SCALE_TABLES

PAGE = ROOT / "docs" / "scaling.md"
RESULT = ROOT / "results" / "benchmarks" / "full" / "scale.json"


def measured_on(result: dict[str, Any]) -> str:
    """Return on what it was measured, and with which code."""
    machine, packages = result["machine"], result["machine"]["packages"]
    versions = ", ".join(f"{name} {number}" for name, number in packages.items())
    small = f" **{result['scale']} times smaller than full size.**" if result["scale"] > 1 else ""
    return (
        f"{machine['cores']} cores of {machine['processor']}, {machine['memory_gb']} GiB, Python "
        f"{machine['python']}, {versions}; code {machine['code'][:12]}. The part took "
        f"{result['seconds'] / 60:.0f} minutes, the writing of granules included.{small}\n"
    )


def fill(page: str, result: dict[str, Any]) -> str:
    """Return a page with the figures of a result between its comments.

    Parameters
    ----------
    page
        Markdown.
    result
        What the JSON file of part ``scale`` holds.

    Raises
    ------
    ValueError
        If a table has no place in the page.
    """
    measured = result["measured"]
    measured = measured | {"cluster": nodes.reckon(measured, nodes.known_dry_runs(measured))}
    texts = {name: make(measured) for name, make in SCALE_TABLES.items()}
    for name, text in (texts | {"machine": measured_on(result)}).items():
        place = re.compile(rf"(<!-- scale: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        if not place.search(page):
            raise ValueError(f"no place for {name} in the page")
        page = place.sub(lambda found, text=text: f"{found[1]}{text}{found[2]}", page)
    return page


def main() -> None:
    """Rewrite the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("result", nargs="?", type=Path, default=RESULT)
    options = parser.parse_args()
    PAGE.write_text(fill(PAGE.read_text(), json.loads(options.result.read_text())))


if __name__ == "__main__":
    main()
