"""The diagram of the packages agrees with the code."""

from dev.architecture import PAGE, update


def test_the_diagram_is_up_to_date() -> None:
    """`python -m dev.architecture` would change nothing."""
    page = PAGE.read_text(encoding="utf-8")

    assert update(page) == page
