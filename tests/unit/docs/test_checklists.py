"""Each line of the checklists has a proof that exists."""

import ast
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import pytest
from pydantic import ValidationError

from dev.checklists import NAMES, Line, load_checklist, load_standard
from tests.support.markdown import anchors


ROOT = Path(__file__).resolve().parents[3]


SIZES = {"asvs": 345, "ccss": 59, "owasp-api": 10, "slsa": 8, "openssf": 67}
"""How many requirements each of the standards has."""


@pytest.mark.parametrize("name", NAMES)
def test_every_id_has_one_line(name: str) -> None:
    """In the list of answers, and in the list of ids with its source."""
    answered = [line.id for line in load_checklist(name).lines]
    known = [each for ids in load_standard(name).levels.values() for each in ids]

    assert len({*answered}) == SIZES[name]
    assert sorted(answered) == sorted(known)


@cache
def _tests_of(path: Path) -> frozenset[str]:
    """Return the names of the tests that pytest would find in the file *path*."""
    if not path.is_file():
        return frozenset()
    return frozenset(_names(ast.parse(path.read_text(encoding="utf-8")).body))


def _names(body: Sequence[ast.stmt], within: str = "") -> Iterator[str]:
    for each in body:
        if isinstance(each, ast.ClassDef) and each.name.startswith("Test"):
            yield from _names(each.body, f"{within}{each.name}::")
        elif isinstance(each, ast.FunctionDef) and each.name.startswith("test_"):
            yield within + each.name


def _is_there(node: str) -> bool:
    path, _, name = node.partition("::")
    return name in _tests_of(ROOT / path)


@pytest.mark.parametrize("name", NAMES)
def test_every_named_test_exists(name: str) -> None:
    named = {node for line in load_checklist(name).lines for node in line.tests}

    assert {node for node in named if not _is_there(node)} == set()


def test_a_test_that_does_not_exist_is_noticed() -> None:
    here = f"{Path(__file__).relative_to(ROOT)}::"

    assert _is_there(f"{here}test_every_named_test_exists")
    assert not _is_there(f"{here}test_every_named_test")
    assert not _is_there("tests/unit/docs/test_absent.py::test_every_named_test_exists")
    assert not _is_there(f"{here}_is_there")


@pytest.mark.parametrize("name", NAMES)
def test_every_named_page_exists(name: str) -> None:
    """With its anchor, if one is named."""
    broken = []
    for line in load_checklist(name).lines:
        path, _, anchor = line.page.partition("#")
        page = ROOT / path
        if line.page and (
            not page.is_file() or (anchor and anchor not in anchors(page))
        ):
            broken.append(line.page)

    assert broken == []


@pytest.mark.parametrize(
    "answers",
    [
        {},
        {"missing": ""},
        {"missing": "a scan", "page": "README.md"},
        {"tests": ["tests/a.py::test_a"], "not_applicable": "no cookie"},
        {"proof": "README.md"},
    ],
    ids=repr,
)
def test_a_line_has_exactly_one_answer(answers: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Line.model_validate({"id": "1.1", "subject": "Cookies", **answers})
