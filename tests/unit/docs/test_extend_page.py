"""*Add a field ...*: the files that the page names exist."""

import re
from pathlib import Path


ROOT = Path(__file__).resolve().parents[3]


def test_the_named_files_exist() -> None:
    """A renamed file is noticed; each recipe names some."""
    page = (ROOT / "docs" / "how-to" / "extend.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:\w+/)+[\w.]*)`", page))

    assert len(named) > 30
    assert {path for path in named if not (ROOT / path).exists()} == set()
