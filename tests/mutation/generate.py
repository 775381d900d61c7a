"""
Prints a sample of mutants of some files as JSON lines, one change of one place each.

Usage: ``python generate.py COUNT SEED FILE...``, with the Python of ``.venv-mutation``,
which has cosmic-ray and nothing of this project.
"""

import json
import random
import sys
from collections import Counter, defaultdict
from pathlib import Path

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names


_LEFT_OUT = (
    "core/VariableInserter",  # Needs a file of names.
    "core/VariableReplacer",
    "core/ReplaceBinaryOperator_BitOr",  # Most are types, which fail when imported.
)

_OPERATORS = {
    name: get_operator(name)()
    for name in operator_names()
    if name.startswith("core/") and not name.startswith(_LEFT_OUT)
}

Place = tuple[str, int]
Change = tuple[str, int, int]
"""The operator, which of its occurrences in the file, and the last line."""


def find(files: list[str]) -> dict[Place, dict[str, list[Change]]]:
    """Return the possible changes by place and by family of operators."""
    found: dict[Place, dict[str, list[Change]]] = defaultdict(lambda: defaultdict(list))
    for file in files:
        seen = Counter[str]()
        for node in ast_nodes(get_ast(Path(file).read_text(encoding="utf-8"))):
            for name, operator in _OPERATORS.items():
                for start, end in operator.mutation_positions(node):
                    family = name.split("_")[0]
                    found[file, start[0]][family].append((name, seen[name], end[0]))
                    seen[name] += 1
    return found


def main(count: str, seed: str, *files: str) -> None:
    """See the module."""
    found = find(sorted(files))
    chosen = random.Random(int(seed))
    # A comparison has ten replacements and a negation one: draw the place first.
    places = chosen.sample(sorted(found), min(int(count), len(found)))
    for file, line in places:  # In random order, so that a part is a sample too.
        family = chosen.choice(sorted(found[file, line]))
        name, occurrence, end = chosen.choice(found[file, line][family])
        code = Path(file).read_text(encoding="utf-8")
        mutated = mutate_code(code, _OPERATORS[name], occurrence)
        mutant = {"file": file, "line": line, "end": end, "operator": name}
        sys.stdout.write(json.dumps({**mutant, "code": mutated}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
