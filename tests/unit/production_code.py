"""The syntax of all production modules."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path


ROOT = Path(__file__).parents[2]
PACKAGES = ("signer", "backends", "api", "softhsm")

Nodes = tuple[ast.AST, ...]

_READ = (ast.Assign, ast.Call, ast.Tuple)


@cache
def production_nodes() -> tuple[Nodes, ...]:
    """Return the assignments, calls and tuples of each module."""
    return tuple(nodes_of(source) for source in _sources())


def nodes_of(source: str | bytes) -> Nodes:
    """Return the assignments, calls and tuples of *source*."""
    return tuple(
        each for each in ast.walk(ast.parse(source)) if isinstance(each, _READ)
    )


def _sources() -> Iterator[bytes]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield path.read_bytes()
