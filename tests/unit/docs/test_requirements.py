"""The requirements and the ids that tests cite agree."""

import ast
import re
from functools import cache
from pathlib import Path


ROOT = Path(__file__).resolve().parents[3]
DOCUMENT = ROOT / "tests" / "requirements.md"

_ID = re.compile(r"\b[AGHIKOPRST]\d{1,2}\b")
_UNTESTED = "\n## Not tested yet\n"


def _defined() -> tuple[set[str], set[str]]:
    """Return the ids that must be cited by a test, and those that are not yet."""
    sections = DOCUMENT.read_text(encoding="utf-8").split(_UNTESTED)
    tested, untested = (
        re.findall(r"^\| ([A-Z]\d{1,2}) \|", section, re.MULTILINE)
        for section in sections
    )
    assert len(tested) + len(untested) == len({*tested, *untested})
    return set(tested), set(untested)


@cache
def _cited() -> set[str]:
    """Return the ids in the docstrings of the tests."""
    texts = [
        path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py")
    ]
    return {
        requirement
        for text in texts
        if _ID.search(text)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
        for requirement in _ID.findall(node.value.value)
    }


def test_every_requirement_is_cited_by_a_test() -> None:
    tested, _ = _defined()

    assert len(tested) > 100
    assert tested - _cited() == set()


def test_every_cited_requirement_is_defined() -> None:
    tested, untested = _defined()

    assert _cited() - tested - untested == set()


def test_requirements_without_a_test_are_listed_as_such() -> None:
    _, untested = _defined()

    assert _cited() & untested == set()
