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


def test_the_tests_cite_every_requirement_and_no_other() -> None:
    """Those without a test are listed as such."""
    tested, _ = _defined()

    assert len(tested) > 100
    assert _cited() == tested
