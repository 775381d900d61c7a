"""The generated files of the clients are up to date."""

from pathlib import Path

import pytest

from dev.clients import DOCUMENT, PYTHON, ROOT, SYNC, TYPESCRIPT, generate


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clients")
    generate(folder)
    return folder


@pytest.mark.parametrize("name", [DOCUMENT, PYTHON, SYNC, TYPESCRIPT])
def test_the_file_is_up_to_date(generated: Path, name: str) -> None:
    """Otherwise run ``make clients``."""
    expected = (generated / name).read_text(encoding="utf-8")

    assert (ROOT / name).read_text(encoding="utf-8") == expected
