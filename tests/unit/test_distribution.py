"""The plugin that distributes the tests names folders and files that exist."""

from pathlib import Path

import pytest

from tests.support.distribution import LONG, LONGEST_FIRST, place


ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("path", sorted({*LONG, *LONGEST_FIRST}))
def test_each_place_exists(path: str) -> None:
    """A file that is renamed keeps its place."""
    assert (ROOT / path).exists()


@pytest.mark.parametrize(("number", "path"), [*enumerate(LONGEST_FIRST)])
def test_a_place_is_the_first_that_matches(number: int, path: str) -> None:
    """A file of a folder comes before the folder, so each place has tests."""
    assert place(f"{path}::test") == number


def test_other_files_come_last() -> None:
    """They are short."""
    assert place("tests/unit/test_distribution.py") == len(LONGEST_FIRST)
