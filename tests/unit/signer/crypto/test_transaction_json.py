"""Transactions from the JSON form of Ethereum tools."""

from typing import Any

import pytest
from hexbytes import HexBytes

from signer.crypto.transaction_json import parse_sender, parse_transaction
from signer.crypto.transactions import AnyTransaction
from signer.errors import InvalidInputError
from tests.support.transactions import EXAMPLES, as_dictionary, as_json, generate


LEGACY, TYPE_1, TYPE_2, TYPE_3, TYPE_4 = [as_json(each) for each in EXAMPLES]
TO = LEGACY["to"]
WRONG_CHECKSUM = "0x5fbDB2315678afecb367f032d93F642f64180aa3"

all_types = pytest.mark.parametrize("plain", EXAMPLES, ids=lambda t: f"type{t.type}")


def test_both_forms_give_the_transaction() -> None:
    """JSON-RPC's hex and eth-account's Python values, for every type."""
    for transaction in generate(250, seed=6, max_nonce=2**64 - 2):
        assert parse_transaction(as_json(transaction)) == transaction
        assert parse_transaction(as_dictionary(transaction)) == transaction


@all_types
def test_the_type_is_inferred(plain: AnyTransaction) -> None:
    """As eth-account infers it."""
    fields = as_json(plain)
    del fields["type"]

    assert parse_transaction(fields) == plain
    listed = {**TYPE_2, "accessList": TYPE_1["accessList"]}
    del listed["type"]
    assert parse_transaction(listed).type == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"type": 2},
        {"nonce": 0, "chainId": 31337},
        {"from": TO},
        {"to": TO.lower()},
        {"to": "0x" + TO[2:].upper()},
        {"to": bytes.fromhex(TO[2:])},
        {"to": HexBytes(TO)},
        {"data": ""},
        {"data": b""},
        {"data": bytearray()},
        {"data": HexBytes("0x")},
        {"input": "0x"},
        {"input": ""},
        {"gasLimit": TYPE_2["gas"]},
        {"gasLimit": 65_000},
        {"accessList": ()},
    ],
    ids=repr,
)
def test_spellings(changes: dict[str, Any]) -> None:
    """What Python, ethers, viem and cast write means the same."""
    assert parse_transaction({**TYPE_2, **changes}) == EXAMPLES[2]


@pytest.mark.parametrize(
    ("alias", "name", "value"),
    [("gasLimit", "gas", "0x5208"), ("input", "data", "0xAb")],
)
def test_aliases(alias: str, name: str, value: str) -> None:
    """One of the two names is enough; two different values are refused."""
    fields = {key: each for key, each in TYPE_2.items() if key != name}
    expected = parse_transaction({**fields, name: value})

    assert parse_transaction({**fields, alias: value}) == expected
    assert parse_transaction({**fields, alias: value, name: value.lower()}) == expected
    with pytest.raises(InvalidInputError, match=f"{alias} differs") as caught:
        parse_transaction({**fields, alias: value, name: "0x11"})
    assert caught.value.field == alias


@pytest.mark.parametrize("nothing", ["absent", None, "", b""], ids=repr)
def test_no_recipient_creates_a_contract(nothing: Any) -> None:
    """``to`` may be absent or empty, as for eth-account."""
    fields = {**TYPE_2, "to": nothing}
    if nothing == "absent":
        del fields["to"]

    assert parse_transaction(fields).to is None


def test_what_may_be_absent() -> None:
    """Value, data and access list, for all types; the account signs nothing else."""
    for plain in EXAMPLES:
        fields = as_json(plain)
        for name in ("value", "data", *(["accessList"] if plain.type > 1 else [])):
            del fields[name]

        assert parse_transaction(fields) == plain


_NO_NUMBERS: list[Any] = [
    *(None, True, False, 1.0, -1, "", "0x", "10", "0x00", "0x01", "-0x1", "0x-1"),
    *("0X1", "0x 1", " 0x1", "0x1 ", "0x1\n", "0xg", "1e18", "\u0663", "0x1_0"),
    *("0x" + "1" * 65, [], [1], {}, b"\x01"),
]
_NO_DATA: list[Any] = [None, 0, 5, True, 1.0, "0x1", "0xzz", "00", "0X00", [], "0x00 "]
_NO_ADDRESSES: list[Any] = [
    *(0, True, "0x", TO[2:], TO[:-1], TO + "0", TO + "\n", "0X" + TO[2:]),
    *(WRONG_CHECKSUM, bytes(19), bytes(21), [], "vitalik.eth"),
]
_KEYS = {"address": TO, "storageKeys": ["0x" + "00" * 32]}
_SIGNED = TYPE_4["authorizationList"][0]

MALFORMED: list[tuple[dict[str, Any], str, list[Any]]] = [
    *(
        (base, name, _NO_NUMBERS)
        for base in (LEGACY, TYPE_1, TYPE_2, TYPE_3, TYPE_4)
        for name in ("chainId", "nonce", "gas", "value", "type")
    ),
    (LEGACY, "gasPrice", _NO_NUMBERS),
    (TYPE_1, "gasPrice", _NO_NUMBERS),
    (TYPE_2, "maxFeePerGas", _NO_NUMBERS),
    (TYPE_2, "maxPriorityFeePerGas", _NO_NUMBERS),
    (TYPE_3, "maxFeePerBlobGas", _NO_NUMBERS),
    (TYPE_2, "gasLimit", _NO_NUMBERS),
    (TYPE_2, "type", [5, "0x5", "0x7f"]),
    (TYPE_2, "data", _NO_DATA),
    (TYPE_2, "input", [*_NO_DATA, "0x00"]),
    (LEGACY, "to", _NO_ADDRESSES),
    (TYPE_2, "to", _NO_ADDRESSES),
    (TYPE_3, "to", [*_NO_ADDRESSES, None, "", b""]),
    (TYPE_4, "to", [*_NO_ADDRESSES, None, "", b""]),
    (TYPE_1, "accessList", [None, "", {}, 0]),
    (TYPE_3, "blobVersionedHashes", [None, "", [], ["0x" + "00" * 32]]),
    (TYPE_4, "authorizationList", [None, "", {}, []]),
    # Out of range.
    (TYPE_2, "chainId", [0, "0x0", 2**63 - 36, 2**64]),
    (TYPE_2, "nonce", [2**64 - 1]),
    (TYPE_2, "gas", [2**64]),
    (TYPE_2, "value", [2**256]),
    (TYPE_2, "maxFeePerGas", [2**256, 2**255]),
    (TYPE_2, "maxPriorityFeePerGas", [2 * 10**9 + 1]),
    (LEGACY, "gasPrice", [2**256, 2**255]),
    (TYPE_3, "maxFeePerBlobGas", [2**256]),
]


@pytest.mark.parametrize(
    ("base", "field", "values"),
    [
        pytest.param(*each, id=f"type{int(each[0]['type'], 16)}-{each[1]}-{i}")
        for i, each in enumerate(MALFORMED)
    ],
)
def test_malformed_fields(base: dict[str, Any], field: str, values: list[Any]) -> None:
    """The error names the field (T9, T10)."""
    for value in values:
        with pytest.raises(InvalidInputError, match=field) as caught:
            parse_transaction({**base, field: value})

        assert caught.value.field == field, value


@pytest.mark.parametrize(
    ("entry", "path"),
    [
        (None, ""),
        ([TO, []], ""),
        ({"address": TO}, ""),
        ({**_KEYS, "extra": 1}, ""),
        ({**_KEYS, "address": None}, ".address"),
        ({**_KEYS, "address": WRONG_CHECKSUM}, ".address"),
        ({**_KEYS, "storageKeys": None}, ".storageKeys"),
        ({**_KEYS, "storageKeys": ["0x0"]}, ".storageKeys[0]"),
        ({**_KEYS, "storageKeys": [*_KEYS["storageKeys"], 1]}, ".storageKeys[1]"),
        ({**_KEYS, "storageKeys": ["0x" + "00" * 31]}, ".storageKeys[0]"),
    ],
)
def test_malformed_access_lists(entry: object, path: str) -> None:
    """The error has the path of the value."""
    with pytest.raises(InvalidInputError) as caught:
        parse_transaction({**TYPE_2, "accessList": [_KEYS, entry]})

    assert caught.value.field == f"accessList[1]{path}"


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"extra": 1}, ""),
        ({"chainId": None}, ".chainId"),
        ({"chainId": 2**256}, ""),
        ({"nonce": 2**64}, ""),
        ({"nonce": "1"}, ".nonce"),
        ({"address": ""}, ".address"),
        ({"yParity": "0x2"}, ""),
        ({"yParity": True}, ".yParity"),
        ({"r": "0x0"}, ""),
        ({"r": "0x01"}, ".r"),
        ({"s": "0x" + "ff" * 32}, ""),
        ({"s": "0x" + "zz" * 32}, ".s"),
    ],
)
def test_malformed_authorizations(changes: dict[str, Any], path: str) -> None:
    """Signatures that a chain would ignore; r and s may be padded, as by viem."""
    padded = {**_SIGNED, "r": "0x" + "00" * 31 + "01", "s": "0x" + "00" * 31 + "02"}
    assert parse_transaction({**TYPE_4, "authorizationList": [padded]}) == EXAMPLES[4]

    entry = {**_SIGNED, **changes}
    with pytest.raises(InvalidInputError) as caught:
        parse_transaction({**TYPE_4, "authorizationList": [_SIGNED, entry]})

    assert caught.value.field == f"authorizationList[1]{path}"


@all_types
def test_missing_fields(plain: AnyTransaction) -> None:
    """Nothing that costs money or moves the nonce has a default."""
    others: list[Any] = [None, [], "0x", 5]
    for value in others:
        with pytest.raises(InvalidInputError, match="object"):
            parse_transaction(value)

    fields = as_json(plain)
    optional = {"type", "value", "data", "accessList"}
    if plain.type < 3:
        optional |= {"to"}
    for name in fields.keys() - optional:
        incomplete = {key: value for key, value in fields.items() if key != name}
        with pytest.raises(InvalidInputError, match=f"{name} is missing") as caught:
            parse_transaction(incomplete)

        assert caught.value.field == name


@pytest.mark.parametrize(
    ("base", "name"),
    [
        *((TYPE_2, name) for name in ("gasPrice", "v", "hash", "maxFeePerBlobGas")),
        *((TYPE_2, name) for name in ("authorizationList", "blobs", "Nonce", "")),
        *((LEGACY, name) for name in ("maxFeePerGas", "accessList", "gasprice")),
        *((TYPE_3, name) for name in ("gasPrice", "blobs", "authorizationList")),
        *((TYPE_4, name) for name in ("gasPrice", "blobVersionedHashes")),
        (TYPE_1, "maxPriorityFeePerGas"),
    ],
)
def test_fields_of_no_or_another_type(base: dict[str, Any], name: str) -> None:
    """A field that would not be signed is refused, also one of another type."""
    with pytest.raises(InvalidInputError, match="no field of a transaction") as caught:
        parse_transaction({**base, name: "0x1"})

    assert caught.value.field == name


def test_the_sender() -> None:
    """It gets its checksum; a malformed one is refused."""
    assert parse_sender({**TYPE_2, "from": TO.lower()}) == TO
    assert parse_sender(TYPE_2) is None
    for value in (*_NO_ADDRESSES, None, ""):
        for parse in (parse_sender, parse_transaction):
            with pytest.raises(InvalidInputError) as caught:
                parse({**TYPE_2, "from": value})

            assert caught.value.field == "from"
