"""What a declaration of a table must have."""

from dataclasses import dataclass, field
from typing import Annotated, Any

import pytest
from sqlalchemy import BigInteger, Column, MetaData

from backends.sql import table_declaration
from backends.sql.table_declaration import declare, granted
from signer.model.sealed_fields import PrimaryKey, Unprotected, sealed
from signer.row_macs import RowMACs


@sealed("test")
@dataclass(frozen=True, slots=True)
class _Sealed:
    id: PrimaryKey[str]
    nonce: int | None = None
    seen: Annotated[int, Unprotected("a test")] = 0
    mac: str | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class _Plain:
    id: PrimaryKey[str]


SEALED: dict[str, Any] = {"doc": "", "verified": "always", "otherwise": "nothing"}
PLAIN: dict[str, Any] = {"doc": "", "unprotected": "it decides nothing"}


@pytest.fixture(autouse=True)
def _other_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_declaration, "TABLES", MetaData())


def test_a_table_follows_from_its_class() -> None:
    """Columns, their keys, and what a role may do with them."""
    grants = {"all": "SELECT", "worker admin": "INSERT, UPDATE (nonce, mac), DELETE"}
    table = declare("rows", _Sealed, grants=grants, **SEALED)

    assert {c.name: (c.primary_key, c.nullable) for c in table.c} == {
        "id": (True, False),
        "nonce": (False, True),
        "seen": (False, False),
        "mac": (False, True),
    }
    assert granted(table, "sign") == {"SELECT": table.c.keys()}
    assert granted(table, "worker")["UPDATE"] == ["nonce", "mac"]


def test_the_mac_covers_all_that_is_not_declared() -> None:
    """A field is outside of the MAC only with a reason."""
    macs = RowMACs({"new": b"\x01" * 32})
    mac = macs.compute(_Sealed("a", 1))

    assert macs.is_valid(mac, _Sealed("a", 1, seen=7))
    assert not macs.is_valid(mac, _Sealed("a", 2))
    with pytest.raises(ValueError, match="needs a reason"):
        Unprotected("")


@pytest.mark.parametrize(
    ("items", "options"),
    [
        ((_Plain,), {"doc": ""}),
        ((_Sealed,), {"doc": ""}),
        ((_Sealed,), PLAIN),
        ((_Sealed, Column("more", BigInteger)), SEALED),
    ],
    ids=["no MAC", "not verified", "a MAC and a reason", "a column outside"],
)
def test_every_row_has_a_mac_or_a_reason(items: Any, options: dict[str, Any]) -> None:
    """The declaration is refused when it is imported."""
    with pytest.raises(TypeError, match="reason"):
        declare("rows", *items, grants={}, **options)


@pytest.mark.parametrize("grant", ["UPDATE (amount)", "INSRT", "SELECT, TRUNCATE"])
def test_a_grant_that_cannot_be(grant: str) -> None:
    """Unknown columns and privileges are refused, not ignored."""
    with pytest.raises(TypeError, match="grant"):
        declare("rows", _Plain, grants={"all": grant}, **PLAIN)
