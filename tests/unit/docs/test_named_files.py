"""Pages for contributors name files of the repository; these exist."""

import re
from pathlib import Path

import pytest


ROOT = Path(__file__).resolve().parents[3]

PAGES = [
    ROOT / "CONTRIBUTING.md",
    ROOT / "docs" / "how-to" / "extend.md",
    *sorted((ROOT / "docs" / "adr").glob("*.md")),
]

_MADE = {"dist/SHA256SUMS"}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_the_named_files_exist(page: Path) -> None:
    """A renamed file is noticed."""
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:[\w.]+/)+[\w.*-]*)`", text)) - _MADE

    assert {path for path in named if not [*ROOT.glob(path)]} == set()


def test_files_are_found() -> None:
    """Nearly each recipe names some."""
    page = (ROOT / "docs" / "how-to" / "extend.md").read_text(encoding="utf-8")

    assert len(re.findall(r"`(?:\w+/)+[\w.]*`", page)) > 30
