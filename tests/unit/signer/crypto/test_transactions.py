"""EIP-1559 and legacy transactions, compared with eth-account."""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest
import rlp
from eth_account import Account
from eth_account.typed_transactions.typed_transaction import TypedTransaction
from eth_utils.address import to_checksum_address
from hexbytes import HexBytes
from hypothesis import given
from hypothesis import strategies as st

from signer.crypto.secp256k1 import HALF_N, N, Signature
from signer.crypto.transactions import (
    MAX_GAS,
    AnyTransaction,
    LegacyTransaction,
    SignedBytes,
    Transaction,
)
from signer.errors import EncodingError, HotWalletError, InvalidInputError
from tests.support.vectors import load


ACCOUNT = Account.from_key("0x" + "11" * 32)
PLAIN = Transaction(
    chain_id=31337,
    nonce=0,
    max_priority_fee_per_gas=10**9,
    max_fee_per_gas=2 * 10**9,
    gas=65_000,
    to="0x5FbDB2315678afecb367f032d93F642f64180aa3",
    value=0,
    data=b"",
)
LEGACY = LegacyTransaction(
    chain_id=31337,
    nonce=0,
    gas_price=2 * 10**9,
    gas=65_000,
    to=PLAIN.to,
    value=0,
    data=b"",
)
SIGNATURE = Signature(1, 2, 1)

both_kinds = pytest.mark.parametrize("plain", [PLAIN, LEGACY], ids=["1559", "legacy"])

_fees = st.integers(0, 2**200)
_addresses = st.binary(min_size=20, max_size=20).map(to_checksum_address)


@st.composite
def fee_market_transactions(draw: st.DrawFn) -> Transaction:
    """Return any valid EIP-1559 transaction."""
    low, high = sorted((draw(_fees), draw(_fees)))
    return Transaction(
        chain_id=draw(st.integers(1, 2**64 - 1)),
        nonce=draw(st.integers(0, 2**64 - 2)),
        max_priority_fee_per_gas=low,
        max_fee_per_gas=high,
        gas=draw(st.integers(1, MAX_GAS)),
        to=draw(_addresses),
        value=draw(st.integers(0, 2**256 - 1)),
        data=draw(st.binary(max_size=300)),
    )


legacy_transactions = st.builds(
    LegacyTransaction,
    chain_id=st.integers(1, 2**64 - 1),
    nonce=st.integers(0, 2**64 - 2),
    gas_price=_fees,
    gas=st.integers(1, MAX_GAS),
    to=_addresses,
    value=st.integers(0, 2**256 - 1),
    data=st.binary(max_size=300),
)

transactions = fee_market_transactions() | legacy_transactions

signatures = st.builds(
    Signature, st.integers(1, N - 1), st.integers(1, HALF_N), st.integers(0, 1)
)


def _as_eth_account(transaction: AnyTransaction) -> dict[str, Any]:
    fees = (
        {"gasPrice": transaction.gas_price}
        if isinstance(transaction, LegacyTransaction)
        else {
            "type": 2,
            "maxPriorityFeePerGas": transaction.max_priority_fee_per_gas,
            "maxFeePerGas": transaction.max_fee_per_gas,
        }
    )
    return {
        **fees,
        "chainId": transaction.chain_id,
        "nonce": transaction.nonce,
        "gas": transaction.gas,
        "to": transaction.to,
        "value": transaction.value,
        "data": transaction.data,
    }


def _sender(signed: SignedBytes) -> str:
    return signed.signature.recover(signed.transaction.signing_digest()).address


@given(transaction=fee_market_transactions(), signature=signatures)
def test_bytes_equal_those_of_eth_account(
    transaction: Transaction, signature: Signature
) -> None:
    """Digest and signed bytes equal those of eth-account, for all fields (S11)."""
    fields = _as_eth_account(transaction)
    numbers = {"v": signature.y_parity, "r": signature.r, "s": signature.s}
    signed = TypedTransaction.from_dict({**fields, **numbers})

    assert transaction.signing_digest() == TypedTransaction.from_dict(fields).hash()
    assert transaction.serialise(signature) == signed.encode()


@given(transaction=transactions)
def test_transactions_of_eth_account_are_decoded(transaction: AnyTransaction) -> None:
    """What eth-account signs is decoded to the same fields, hash and sender (S11)."""
    theirs = ACCOUNT.sign_transaction(_as_eth_account(transaction))

    decoded = SignedBytes.decode(bytes(theirs.raw_transaction))

    assert decoded.transaction == transaction
    assert decoded.tx_hash == theirs.hash.to_0x_hex()
    assert (decoded.signature.r, decoded.signature.s) == (theirs.r, theirs.s)
    first_v = (
        transaction.chain_id * 2 + 35
        if isinstance(transaction, LegacyTransaction)
        else 0
    )
    assert decoded.signature.y_parity == theirs.v - first_v
    assert decoded.transaction.serialise(decoded.signature) == theirs.raw_transaction
    assert _sender(decoded) == ACCOUNT.address


@given(transaction=transactions, signature=signatures)
def test_a_serialised_transaction_is_decoded_again(
    transaction: AnyTransaction, signature: Signature
) -> None:
    signed = SignedBytes.of(transaction, signature)

    assert signed == SignedBytes.decode(transaction.serialise(signature))
    assert (signed.transaction, signed.signature) == (transaction, signature)


@given(st.binary(max_size=300) | st.binary(max_size=300).map(lambda b: b"\x02" + b))
def test_random_bytes_raise_our_errors(noise: bytes) -> None:
    """Random bytes raise EncodingError, or are a canonical transaction."""
    try:
        decoded = SignedBytes.decode(noise)
    except HotWalletError:
        return

    assert decoded.transaction.serialise(decoded.signature) == noise


_fields = st.one_of(
    st.binary(max_size=40),
    st.integers(0, 2**264).map(lambda n: n.to_bytes(34, "big").lstrip(b"\0")),
    st.lists(st.binary(max_size=3), max_size=2),
)


@given(
    st.sampled_from([b"\x02", b""]),
    st.lists(_fields, min_size=8, max_size=10)
    | st.lists(_fields, min_size=11, max_size=13),
)
def test_rlp_of_other_fields_raises_our_errors(kind: bytes, fields: list[Any]) -> None:
    """Well-formed RLP of other fields raises our errors, or is canonical."""
    raw = kind + rlp.encode(fields)
    try:
        decoded = SignedBytes.decode(raw)
    except HotWalletError:
        return

    assert decoded.transaction.serialise(decoded.signature) == raw


@both_kinds
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
@pytest.mark.parametrize("kind", [b"\x02", b""], ids=["1559", "legacy"])
def test_nested_lists_raise_our_error(kind: bytes, depth: int) -> None:
    """Deep RLP raises EncodingError, not RecursionError."""
    with pytest.raises(EncodingError):
        SignedBytes.decode(kind + _nested(depth))


def _with(
    position: int, value: Any, plain: AnyTransaction = PLAIN
) -> Callable[[], bytes]:
    """Return a function that makes signed bytes with another field at *position*."""
    kind = b"\x02" if isinstance(plain, Transaction) else b""

    def make() -> bytes:
        fields = rlp.decode(plain.serialise(SIGNATURE).removeprefix(kind))
        fields[position] = value
        return bytes(kind + rlp.encode(fields))

    return make


MALFORMED: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "no fields": lambda: b"\x02",
    "type 1": lambda: b"\x01" + PLAIN.serialise(SIGNATURE)[1:],
    "type 4": lambda: b"\x04" + PLAIN.serialise(SIGNATURE)[1:],
    "no type": lambda: PLAIN.serialise(SIGNATURE)[1:],
    "a byte too many": lambda: PLAIN.serialise(SIGNATURE) + b"\x80",
    "zero with a byte": _with(1, b"\x00"),
    "a list for zero": _with(1, []),
    "a list for a number": _with(1, [b"\x01"]),
    "contract creation": _with(5, b""),
    "19-byte address": _with(5, bytes(19)),
    "21-byte address": _with(5, bytes(21)),
    "access list": _with(8, [[bytes(20), []]]),
    "parity 2": _with(9, b"\x02"),
    "parity 27": _with(9, b"\x1b"),
    "huge parity": _with(9, (2**300).to_bytes(38, "big")),
    "r is 0": _with(10, b""),
    "r is N": _with(10, N.to_bytes(32, "big")),
    "r of 33 bytes": _with(10, (2**256).to_bytes(33, "big")),
    "s is 0": _with(11, b""),
    "high s": _with(11, (HALF_N + 1).to_bytes(32, "big")),
    "legacy as 1559": lambda: b"\x02" + LEGACY.serialise(SIGNATURE),
    "legacy, a byte too many": lambda: LEGACY.serialise(SIGNATURE) + b"\x80",
    "legacy with an empty type": lambda: b"\x80" + LEGACY.serialise(SIGNATURE),
    "legacy contract creation": _with(3, b"", LEGACY),
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


OUT_OF_RANGE: dict[str, tuple[Any, ...]] = {
    "chain_id": (0, -1, 2**64),
    "nonce": (-1, 2**64 - 1, 2**64),
    "max_fee_per_gas": (-1, 10**9 - 1, 2**256 // 65_000 + 1, 2**256),
    "max_priority_fee_per_gas": (-1, 2 * 10**9 + 1),
    "gas_price": (-1, 2**256 // 65_000 + 1),
    "gas": (0, -1, MAX_GAS + 1),
    "value": (-1, 2**256),
    "to": (
        *("", "0x", PLAIN.to.lower(), PLAIN.to[2:], PLAIN.to[:-1], PLAIN.to + "0"),
        "0x5fbDB2315678afecb367f032d93F642f64180aa3",
    ),
}


@pytest.mark.parametrize(
    ("plain", "field"),
    [
        (plain, each.name)
        for plain in (PLAIN, LEGACY)
        for each in fields(plain)
        if each.name in OUT_OF_RANGE
    ],
)
def test_fields_out_of_range(plain: AnyTransaction, field: str) -> None:
    """No such transaction can be built (T5, T8; EIP-155, 1559, 2681, 7825)."""
    for value in OUT_OF_RANGE[field]:
        changes: dict[str, Any] = {field: value}
        with pytest.raises(InvalidInputError):
            replace(plain, **changes)


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("chain_id", (1, 2**64 - 1)),
        ("nonce", (0, 2**64 - 2)),
        ("max_fee_per_gas", (10**9, 2**256 // 65_000)),
        ("max_priority_fee_per_gas", (0, 2 * 10**9)),
        ("gas", (1, MAX_GAS)),
        ("value", (0, 2**256 - 1)),
    ],
)
def test_the_edges_of_the_ranges(field: str, values: tuple[int, ...]) -> None:
    for value in values:
        changes: dict[str, Any] = {field: value}

        assert getattr(replace(PLAIN, **changes), field) == value


def test_a_gas_price_is_both_fees() -> None:
    """Callers read the fees of both kinds by the same names."""
    assert LEGACY.max_fee_per_gas == LEGACY.max_priority_fee_per_gas == 2 * 10**9


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


def test_the_price_of_all_the_gas_is_a_uint256() -> None:
    """Gas times max fee may be at most 2**256 - 1; nodes refuse more."""
    replace(PLAIN, gas=2**16, max_fee_per_gas=2**240 - 1)

    with pytest.raises(InvalidInputError, match="max_fee_per_gas"):
        replace(PLAIN, gas=2**16, max_fee_per_gas=2**240)


def test_the_most_gas_is_that_of_eip_7825() -> None:
    assert MAX_GAS == 16_777_216


def test_the_error_names_the_field() -> None:
    with pytest.raises(InvalidInputError, match="chain_id") as caught:
        replace(PLAIN, chain_id=0)

    assert caught.value.field == "chain_id"


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
