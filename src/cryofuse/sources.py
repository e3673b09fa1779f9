"""Which module files a job's code consists of, found without running any of it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent


def _is_for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def _nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes of a tree, those that only a type checker reads left out."""
    for node in ast.iter_child_nodes(tree):
        if not _is_for_types_only(node):
            yield node
            yield from _nodes(node)


# Rules share most of their modules: read once each, they take a seventh of the time.
@cache
def imported_files(path: Path) -> frozenset[Path]:
    """Return the files of this package that a source file imports, packages' own included."""
    names: set[str] = set()
    for node in _nodes(ast.parse(path.read_text())):
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
    return frozenset(found)


def module_files(*modules: str) -> list[Path]:
    """Return the files of modules (such as ``atl06/quality``) and of all they import.

    Raises
    ------
    FileNotFoundError
        If there is no such module.
    """
    waiting = {PACKAGE / f"{name}.py" for name in modules}
    waiting |= {path.parent / "__init__.py" for path in waiting}
    known: set[Path] = set()
    while waiting:
        path = waiting.pop()
        known.add(path)
        waiting |= imported_files(path) - known
    return sorted(known)
