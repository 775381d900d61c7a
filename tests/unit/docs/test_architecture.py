"""The picture of the packages is the one that the code has."""

from dev.architecture import PAGE, update


def test_the_picture_is_up_to_date() -> None:
    """`python -m dev.architecture` would change nothing."""
    page = PAGE.read_text(encoding="utf-8")

    assert update(page) == page
