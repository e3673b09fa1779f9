"""Which module files a job's code consists of, found without running any of it."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).parent


def imported_files(path: Path) -> set[Path]:
    """Return the files of this package that a source file imports, packages' own included."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    found: set[Path] = set()
    for name in names:
        top, *parts = name.split(".")
        if top != PACKAGE.name:
            continue
        # Importing a.b.c runs a/__init__, a/b/__init__ and a/b/c.
        steps = [PACKAGE.joinpath(*parts[:depth]) for depth in range(len(parts) + 1)]
        candidates = [step / "__init__.py" for step in steps]
        candidates += [step.with_suffix(".py") for step in steps[1:]]
        found.update(candidate for candidate in candidates if candidate.is_file())
    return found


def module_files(*modules: str) -> list[Path]:
    """Return the files of modules (such as ``atl06/quality``) and of all they import.

    Raises
    ------
    FileNotFoundError
        If there is no such module.
    """
    waiting = {PACKAGE / f"{name}.py" for name in modules}
    known: set[Path] = set()
    while waiting:
        path = waiting.pop()
        known.add(path)
        waiting |= imported_files(path) - known
    return sorted(known)
