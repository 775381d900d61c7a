"""How the fields of a stored row are declared."""

from collections.abc import Mapping
from dataclasses import dataclass

import pytest

from signer.model.sealed_fields import (
    NotStored,
    PrimaryKey,
    Unprotected,
    changed,
    from_row,
    stored_fields,
)


@dataclass(frozen=True)
class _Row:
    id: PrimaryKey[str]
    reason: str | None
    names: NotStored[Mapping[str, str] | None] = None


def test_only_stored_fields_have_a_column() -> None:
    """A mapping, for which there is no column, can be made when a row is read."""
    found = [(each.name, each.type, each.is_nullable) for each in stored_fields(_Row)]

    assert found == [("id", str, False), ("reason", str, True)]


def test_a_field_outside_the_mac_needs_a_reason() -> None:
    with pytest.raises(ValueError, match="needs a reason"):
        Unprotected("")


def test_a_changed_row_is_a_copy() -> None:
    row = _Row("1", None, {})
    later = changed(row, reason="paid")

    assert later == _Row("1", "paid", {})
    assert row == _Row("1", None, {})


def test_a_row_of_stored_values_is_that_of_the_class() -> None:
    assert from_row(_Row, ("1", "paid")) == _Row("1", "paid")
    with pytest.raises(TypeError, match="_Row needs more values"):
        from_row(_Row, ("1",))


def test_a_row_has_no_other_fields() -> None:
    with pytest.raises(TypeError, match="_Row has no amount, reference"):
        changed(_Row("1", None, {}), reference="a", amount=1)
