"""Transactions of all types: encoding, and decoding again."""

from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from itertools import permutations
from typing import Any

import pytest
import rlp
from eth_account import Account
from eth_utils.address import to_checksum_address
from hexbytes import HexBytes
from hypothesis import given
from hypothesis import strategies as st

from signer.crypto.secp256k1 import HALF_N, N, Signature
from signer.crypto.transactions import (
    MAX_GAS,
    AnyTransaction,
    Authorization,
    LegacyTransaction,
    SignedBytes,
)
from signer.crypto.transactions.fields import decode, encode
from signer.errors import EncodingError, HotWalletError, InvalidInputError
from tests.support import transactions as eth_account
from tests.support.transactions import (
    EXAMPLES,
    LEGACY,
    SIGNATURE,
    TYPE_2,
    TYPE_3,
    TYPE_4,
    generate,
)
from tests.support.vectors import load


all_types = pytest.mark.parametrize("plain", EXAMPLES, ids=lambda t: f"type{t.type}")


def _sender(signed: SignedBytes) -> str:
    return signed.signature.recover(signed.transaction.signing_digest()).address


def _parity(transaction: AnyTransaction, v: int) -> int:
    return v - 2 * transaction.chain_id - 35 if transaction.type == 0 else v


def test_bytes_equal_those_of_eth_account() -> None:
    """
    Digest, signed bytes, hash, v and sender equal those of eth-account (S11).

    What eth-account signs is decoded to the same fields, for all types (T11).

    """
    for transaction in generate(250, seed=4, max_nonce=2**64 - 2):
        theirs = eth_account.sign(transaction)
        raw = bytes(theirs.raw_transaction)
        decoded = SignedBytes.decode(raw)

        assert transaction.signing_digest() == eth_account.digest(transaction)
        assert decoded.transaction == transaction
        assert transaction.serialise(decoded.signature) == raw
        assert decoded.tx_hash == theirs.hash.to_0x_hex()
        assert (decoded.signature.r, decoded.signature.s) == (theirs.r, theirs.s)
        assert decoded.signature.y_parity == _parity(transaction, theirs.v)
        assert decoded.v == theirs.v
        assert SignedBytes.of(transaction, decoded.signature) == decoded

        assert _sender(decoded) == eth_account.ACCOUNT.address


@all_types
def test_bytes_of_another_transaction_are_noticed(plain: AnyTransaction) -> None:
    """A bug that serialises another field gives no signed bytes (T11)."""

    class Buggy(type(plain)):  # type: ignore[misc]  # Its own type.
        __slots__ = ()

        def serialise(self, signature: Signature) -> bytes:
            changed: AnyTransaction = replace(plain, value=plain.value + 1)
            return changed.serialise(signature)

    values = {each.name: getattr(plain, each.name) for each in fields(plain)}
    with pytest.raises(EncodingError, match="another transaction"):
        SignedBytes.of(Buggy(**values), SIGNATURE)


_prefixes = st.sampled_from([b"", b"\x01", b"\x02", b"\x03", b"\x04"])


_lists = st.lists(
    st.binary(max_size=40)
    | st.integers(0, 2**264).map(lambda n: n.to_bytes(34, "big").lstrip(b"\0"))
    | st.lists(st.binary(max_size=3), max_size=2),
    min_size=8,
    max_size=15,
)


@given(_prefixes, st.binary(max_size=300) | _lists.map(rlp.encode))
def test_random_bytes_raise_our_errors(prefix: bytes, random: bytes) -> None:
    """Random bytes, and RLP of other fields, raise them, or are canonical."""
    noise = prefix + random
    try:
        decoded = SignedBytes.decode(noise)
    except HotWalletError:
        return

    assert decoded.transaction.serialise(decoded.signature) == noise


_items: st.SearchStrategy[Any] = st.recursive(
    st.binary(max_size=300),
    lambda items: st.lists(items, max_size=4),
    max_leaves=8,
)


@given(st.lists(_items, max_size=12), st.data())
def test_rlp_is_that_of_the_rlp_library(items: list[Any], data: st.DataObject) -> None:
    """Bytes are equal; what is decoded after one byte changed is the only reading."""
    encoded = encode(items)
    assert encoded == rlp.encode(items)

    place = data.draw(st.integers(0, len(encoded) - 1))
    other = encoded[:place] + data.draw(st.binary(max_size=2)) + encoded[place + 1 :]
    for noise in (encoded, other):
        try:
            found = decode(noise)
        except EncodingError:
            continue
        assert found == rlp.decode(noise)
        assert encode(found) == noise


@all_types
def test_every_changed_byte_of_signed_bytes_is_noticed(plain: AnyTransaction) -> None:
    """One byte changed, removed or added: refused, or another transaction (T11)."""
    raw = replace(plain, data=b"\xa9\x05\x9c\xbb" + bytes(64)).serialise(SIGNATURE)
    original = SignedBytes.decode(raw)
    mutations = [
        raw[:i] + bytes([byte]) + raw[i + 1 :]
        for i in range(len(raw))
        for byte in {0, 1, raw[i] ^ 1, raw[i] ^ 0x80, 255} - {raw[i]}
    ]
    mutations += [raw[:i] for i in range(len(raw))]
    mutations += [raw + bytes([byte]) for byte in range(256)]

    for mutated in mutations:
        try:
            decoded = SignedBytes.decode(mutated)
        except HotWalletError:
            continue

        assert decoded.transaction.serialise(decoded.signature) == mutated
        assert (decoded.transaction, decoded.signature) != (
            original.transaction,
            original.signature,
        )


def _nested(depth: int) -> bytes:
    inner = b"\xc0"
    for _ in range(depth):
        size = len(inner)
        if size < 56:
            head = bytes([0xC0 + size])
        else:
            length = size.to_bytes((size.bit_length() + 7) // 8, "big")
            head = bytes([0xF7 + len(length)]) + length
        inner = head + inner
    return inner


@pytest.mark.parametrize("depth", [0, 10, 1_000, 10_000])
@pytest.mark.parametrize("kind", [b"", b"\x01", b"\x02", b"\x03", b"\x04"])
def test_nested_lists_raise_our_error(kind: bytes, depth: int) -> None:
    """Deep RLP raises EncodingError, not RecursionError."""
    with pytest.raises(EncodingError):
        SignedBytes.decode(kind + _nested(depth))


def _with(
    position: int, value: Any, plain: AnyTransaction = TYPE_2
) -> Callable[[], bytes]:
    """Return a function that makes signed bytes with another item at *position*."""
    kind = bytes([plain.type]) if plain.type else b""

    def make() -> bytes:
        items = rlp.decode(plain.serialise(SIGNATURE).removeprefix(kind))
        items[position] = value
        return bytes(kind + rlp.encode(items))

    return make


_A, _K = bytes(20), bytes(32)
_AUTHORIZATION = [b"\x01", _A, b"\x01", b"\x01", b"\x01", b"\x01"]


def _changed(position: int, value: Any) -> Callable[[], bytes]:
    """Return a function that makes a type 4 transaction with another authorization."""
    changed = list(_AUTHORIZATION)
    changed[position] = value
    return _with(9, [_AUTHORIZATION, changed], TYPE_4)


def _retyped(type_: int, other: int) -> bytes:
    return bytes([other]) + EXAMPLES[type_].serialise(SIGNATURE)[1:]


def _extended(type_: int) -> bytes:
    return EXAMPLES[type_].serialise(SIGNATURE) + b"\x80"


MALFORMED: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "type 0": lambda: b"\x00" + LEGACY.serialise(SIGNATURE),
    "type 5": lambda: b"\x05" + TYPE_2.serialise(SIGNATURE)[1:],
    "type 127": lambda: b"\x7f" + TYPE_2.serialise(SIGNATURE)[1:],
    **{f"no fields of type {i}": partial(bytes, [i]) for i in range(1, 5)},
    **{
        f"type {i} as type {j}": partial(_retyped, i, j)
        for i, j in permutations(range(1, 5), 2)
    },
    **{f"a byte after type {i}": partial(_extended, i) for i in range(5)},
    "no type": lambda: TYPE_2.serialise(SIGNATURE)[1:],
    "zero with a byte": _with(1, b"\x00"),
    "a list for zero": _with(1, []),
    "a list for a number": _with(1, [b"\x01"]),
    "19-byte address": _with(5, bytes(19)),
    "21-byte address": _with(5, bytes(21)),
    "type 3 without a recipient": _with(5, b"", TYPE_3),
    "type 4 without a recipient": _with(5, b"", TYPE_4),
    "bytes for an access list": _with(8, b""),
    "bytes for an access list's entry": _with(8, [b""]),
    "an access list's entry of one item": _with(8, [[_A]]),
    "an access list's entry of three items": _with(8, [[_A, [], []]]),
    "an access list's address of 19 bytes": _with(8, [[bytes(19), []]]),
    "an access list's empty address": _with(8, [[b"", []]]),
    "bytes for storage keys": _with(8, [[_A, b""]]),
    "a storage key of 31 bytes": _with(8, [[_A, [_K, _K[1:]]]]),
    "a storage key of 33 bytes": _with(8, [[_A, [_K + b"\0"]]]),
    "a list for a storage key": _with(8, [[_A, [[_K]]]]),
    "parity 2": _with(9, b"\x02"),
    "parity 27": _with(9, b"\x1b"),
    "huge parity": _with(9, (2**300).to_bytes(38, "big")),
    "r is 0": _with(10, b""),
    "r is N": _with(10, N.to_bytes(32, "big")),
    "r of 33 bytes": _with(10, (2**256).to_bytes(33, "big")),
    "s is 0": _with(11, b""),
    "high s": _with(11, (HALF_N + 1).to_bytes(32, "big")),
    "bytes for hashes": _with(10, b"", TYPE_3),
    "a hash of 31 bytes": _with(10, [b"\x01" + bytes(30)], TYPE_3),
    "bytes for authorizations": _with(9, b"", TYPE_4),
    "bytes for an authorization": _with(9, [b""], TYPE_4),
    "an authorization of five items": _with(9, [_AUTHORIZATION[:5]], TYPE_4),
    "an authorization of seven items": _with(9, [[*_AUTHORIZATION, b""]], TYPE_4),
    "an authorization for no address": _changed(1, b""),
    "an authorization with a padded nonce": _changed(2, b"\x00\x01"),
    "an authorization with parity 2": _changed(3, b"\x02"),
    "an authorization with r 0": _changed(4, b""),
    "an authorization with a high s": _changed(5, (HALF_N + 1).to_bytes(32, "big")),
    "legacy as 1559": lambda: b"\x02" + LEGACY.serialise(SIGNATURE),
    "legacy with an empty type": lambda: b"\x80" + LEGACY.serialise(SIGNATURE),
    "legacy for any chain": _with(6, 27, LEGACY),
    "legacy for any chain, odd": _with(6, 28, LEGACY),
    "legacy v 0": _with(6, 0, LEGACY),
    "legacy chain 0": _with(6, 36, LEGACY),
    "legacy r is 0": _with(7, b"", LEGACY),
    "legacy high s": _with(8, HALF_N + 1, LEGACY),
}


@pytest.mark.parametrize("make", MALFORMED.values(), ids=MALFORMED)
def test_other_signed_bytes_are_refused(make: Callable[[], bytes]) -> None:
    """Other types and shapes, and signatures out of range, raise EncodingError."""
    with pytest.raises(EncodingError):
        SignedBytes.decode(make())


@pytest.mark.parametrize("version", [[], [b"\x01"]], ids=["EIP-4844", "EIP-7594"])
def test_a_blob_transaction_with_its_blobs_names_the_reason(version: list[Any]) -> None:
    """The form that nodes exchange is recognised; the signed part alone is decoded."""
    with pytest.raises(EncodingError, match="EIP-155"):  # It fits any chain.
        SignedBytes.decode(_with(6, 27, LEGACY)())
    signed = TYPE_3.serialise(SIGNATURE)
    parts = [rlp.decode(signed[1:]), *version, [bytes(131_072)], [bytes(48)], []]

    with pytest.raises(EncodingError, match="together with its blobs"):
        SignedBytes.decode(b"\x03" + rlp.encode(parts))


def test_the_example_of_eip_155() -> None:
    example = load("eips")["eip155"]
    fields = example["transaction"]

    decoded = SignedBytes.decode(bytes(HexBytes(example["raw"])))

    assert decoded.transaction == LegacyTransaction(
        chain_id=fields["chainId"],
        nonce=fields["nonce"],
        gas_price=fields["gasPrice"],
        gas=fields["gas"],
        to=to_checksum_address(fields["to"]),
        value=fields["value"],
        data=b"",
    )
    assert decoded.transaction.signing_digest() == HexBytes(example["hash"])
    assert decoded.signature.y_parity == example["v"] - 37
    assert _sender(decoded) == Account.from_key(example["key"]).address


@pytest.mark.parametrize("case", load("ttEIP1559"), ids=lambda case: case["name"])
def test_ethereum_vectors(case: dict[str, str]) -> None:
    """The ttEIP1559 vectors of ethereum/tests have their expected results (T8)."""
    raw = bytes(HexBytes(case["txbytes"]))

    if case["result"] == "valid":
        decoded = SignedBytes.decode(raw)

        assert decoded.tx_hash == case["hash"]
        assert _sender(decoded).lower() == case["sender"]
    else:
        with pytest.raises((EncodingError, InvalidInputError)):
            SignedBytes.decode(raw)


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
