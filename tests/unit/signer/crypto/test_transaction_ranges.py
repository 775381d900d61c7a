"""Which values the fields of transactions may have."""

from dataclasses import fields, replace
from typing import Any

import pytest

from signer.crypto.transactions import MAX_GAS, AnyTransaction, Authorization
from signer.errors import InvalidInputError
from tests.support.transactions import (
    EXAMPLES,
    SIGNATURE,
    TYPE_2,
    TYPE_3,
    TYPE_4,
)


TO = str(TYPE_2.to)
WRONG_CHECKSUM = "0x5fbDB2315678afecb367f032d93F642f64180aa3"
HASH = b"\x01" + bytes(31)

OUT_OF_RANGE: dict[str, tuple[Any, ...]] = {
    "chain_id": (0, -1, 2**63 - 36, 2**64),
    "nonce": (-1, 2**64 - 1, 2**64),
    "max_fee_per_gas": (-1, 10**9 - 1, 2**256 // 65_000 + 1, 2**256),
    "max_priority_fee_per_gas": (-1, 2 * 10**9 + 1),
    "gas_price": (-1, 2**256 // 65_000 + 1),
    "gas": (-1, 2**64),
    "value": (-1, 2**256),
    "to": ("", "0x", TO.lower(), TO[2:], TO[:-1], TO + "0", WRONG_CHECKSUM),
    "access_list": (
        ((WRONG_CHECKSUM, ()),),
        ((TO.lower(), ()),),
        ((TO, (bytes(32), bytes(31))),),
        ((TO, (bytes(33),)),),
    ),
    "max_fee_per_blob_gas": (-1, 2**256),
    "blob_versioned_hashes": ((), (HASH, bytes(32)), (HASH[:-1],), (HASH + b"\0",)),
    "authorization_list": ((),),
}


@pytest.mark.parametrize(
    ("plain", "field"),
    [
        pytest.param(plain, each.name, id=f"type{plain.type}-{each.name}")
        for plain in EXAMPLES
        for each in fields(plain)
        if each.name in OUT_OF_RANGE
    ],
)
def test_fields_out_of_range(plain: AnyTransaction, field: str) -> None:
    """
    No such transaction can be built, and the error names the field.

    (T5, T8; EIP-155, 1559, 2681, 2930, 4844, 7702)
    """
    for value in OUT_OF_RANGE[field]:
        changes: dict[str, Any] = {field: value}
        with pytest.raises(InvalidInputError) as caught:
            replace(plain, **changes)

        assert caught.value.field in {field, "max_priority_fee_per_gas"}


@pytest.mark.parametrize("plain", [TYPE_3, TYPE_4], ids=["blob", "set code"])
def test_types_that_cannot_create_a_contract(plain: AnyTransaction) -> None:
    """EIP-4844, EIP-7702: they have a recipient."""
    changes: dict[str, Any] = {"to": None}
    with pytest.raises(InvalidInputError) as caught:
        replace(plain, **changes)

    assert caught.value.field == "to"


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("chain_id", (1, 2**63 - 37)),
        ("nonce", (0, 2**64 - 2)),
        ("max_fee_per_gas", (10**9, 2**256 // 65_000)),
        ("max_priority_fee_per_gas", (0, 2 * 10**9)),
        ("gas", (0, MAX_GAS + 1, 2**64 - 1)),
        ("value", (0, 2**256 - 1)),
        ("to", (None,)),
        ("access_list", ((), ((TO, ()),), ((TO, (bytes(32),)),) * 2)),
    ],
)
def test_the_edges_of_the_ranges(field: str, values: tuple[Any, ...]) -> None:
    for value in values:
        changes: dict[str, Any] = {field: value}

        assert getattr(replace(TYPE_2, **changes), field) == value


@pytest.mark.parametrize(
    "changes",
    [
        {"chain_id": -1},
        {"chain_id": 2**256},
        {"nonce": -1},
        {"nonce": 2**64},
        {"address": WRONG_CHECKSUM},
    ],
)
def test_authorizations_out_of_range(changes: dict[str, Any]) -> None:
    """EIP-7702: chain id 0 is every chain."""
    valid = Authorization(0, TO, 2**64 - 1, SIGNATURE)

    with pytest.raises(InvalidInputError) as caught:
        replace(valid, **changes)

    assert caught.value.field == "authorization_list"
