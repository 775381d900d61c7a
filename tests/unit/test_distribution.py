"""The plugin that distributes the tests, and the forks that run them."""

from pathlib import Path

import pytest

from tests.support.distribution import LONG, LONGEST_FIRST, place
from tests.support.programs import run_python


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


_FORKED = """
import sys

def test_it():
    assert sys.modules["__main__"].__file__.endswith("/forked_workers.py")
"""


@pytest.mark.parametrize(
    ("source", "status", "said"),
    [
        (_FORKED, 0, "1 passed"),
        ("import absent_module", 1, "No module named 'absent_module'"),
        ("def broken(:", 1, "SyntaxError"),
    ],
)
def test_workers_are_forks(tmp_path: Path, source: str, status: int, said: str) -> None:
    """A file that cannot be imported is an error as in other workers."""
    (tmp_path / "test_it.py").write_text(source, "utf-8")

    options = ("-c", "/dev/null", "-p", "tests.support.distribution")
    xdist = ("-n", "2", "--dist", "loadfile", "--import-mode=importlib")
    result = run_python(*("-m", "pytest", *options, *xdist, str(tmp_path)), environ={})

    assert result.returncode == status, result.stdout
    assert said in result.stdout
