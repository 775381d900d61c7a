"""How the fields of a stored row are declared."""

from collections.abc import Mapping
from dataclasses import dataclass

import pytest

from signer.model.sealed_fields import NotStored, PrimaryKey, Unprotected, stored_fields


@dataclass(frozen=True, slots=True)
class _Row:
    id: PrimaryKey[str]
    reason: str | None
    names: NotStored[Mapping[str, str]]


def test_only_stored_fields_have_a_column() -> None:
    """A mapping, for which there is no column, can be made when a row is read."""
    found = [(each.name, each.type, each.is_nullable) for each in stored_fields(_Row)]

    assert found == [("id", str, False), ("reason", str, True)]


def test_a_field_outside_the_mac_needs_a_reason() -> None:
    with pytest.raises(ValueError, match="needs a reason"):
        Unprotected("")
