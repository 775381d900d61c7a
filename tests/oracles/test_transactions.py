"""Transactions of all types, compared with eth-account and ethers."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from signer.crypto.secp256k1 import Signature
from signer.crypto.transaction_json import parse_transaction
from signer.crypto.transactions import SignedBytes
from signer.errors import EncodingError, InvalidInputError, RecoveryError
from tests.oracles.ethers import ask_ethers
from tests.support import transactions as eth_account
from tests.support.transactions import as_dictionary, as_json, generate


SEED = 15

# So small that a changed byte gives no nonce that ethers cannot represent.
_SMALL_NONCE = 2**48 - 1


@pytest.mark.parametrize("number", [250, pytest.param(20_000, marks=pytest.mark.soak)])
def test_generated_transactions(number: int) -> None:
    """
    Digest, bytes, hash, v, sender and fields are those of eth-account and ethers (S11).

    The same transaction is made from the JSON of both.
    """
    transactions = list(generate(number, SEED))
    requests = []
    for transaction in transactions:
        theirs = eth_account.sign(transaction)
        v_of_even_parity = 35 + 2 * transaction.chain_id if transaction.type == 0 else 0
        parity = theirs.v - v_of_even_parity
        signed = SignedBytes.of(transaction, Signature(theirs.r, theirs.s, parity))

        assert transaction.signing_digest() == eth_account.digest(transaction)
        assert (signed.raw, signed.v) == (theirs.raw_transaction, theirs.v)
        assert signed.tx_hash == theirs.hash.to_0x_hex()
        assert _sender(signed) == eth_account.ACCOUNT.address
        assert parse_transaction(as_dictionary(transaction)) == transaction
        assert parse_transaction(as_json(transaction)) == transaction
        requests.append(_request(signed))

    for request, answer in zip(requests, ask_ethers(requests), strict=True):
        assert answer == request["expected"]


def _request(signed: SignedBytes) -> dict[str, Any]:
    transaction, raw = signed.transaction, "0x" + signed.raw.hex()
    fields, digest = as_json(transaction), "0x" + transaction.signing_digest().hex()
    return {
        "raw": raw,
        "recover": True,
        "fields": fields,
        "signature": {
            "r": f"0x{signed.signature.r:064x}",
            "s": f"0x{signed.signature.s:064x}",
            "yParity": signed.signature.y_parity,
        },
        "expected": {
            "fields": fields,
            "signature": _signature(signed),
            "digest": digest,
            "hash": signed.tx_hash,
            "sender": eth_account.ACCOUNT.address,
            "built": {"digest": digest, "raw": raw},
        },
    }


@pytest.mark.parametrize(
    ("number", "flips", "recover"),
    [
        (5, (0x01, 0x80), False),
        pytest.param(20, tuple(1 << i for i in range(8)), True, marks=pytest.mark.soak),
    ],
)
def test_changed_bytes(number: int, flips: tuple[int, ...], recover: bool) -> None:
    """
    What eth-account or ethers refuses is refused; the rest has the same meaning (T11).

    Each byte of a signed transaction of each type is changed.
    """
    mutations = [
        mutation
        for transaction in generate(number, SEED, _SMALL_NONCE)
        for mutation in _mutations(bytes(eth_account.sign(transaction)[0]), flips)
    ]
    asked = [{"raw": "0x" + raw.hex(), "recover": recover} for raw in mutations]
    accepted = 0

    for raw, of_ethers in zip(mutations, ask_ethers(asked), strict=True):
        of_eth_account = eth_account.decode(raw)
        try:
            signed = SignedBytes.decode(raw)
        except (EncodingError, InvalidInputError):
            continue
        accepted += 1
        meaning = as_json(signed.transaction), _signature(signed)

        assert of_eth_account is not None, raw.hex()
        assert (of_eth_account.fields, of_eth_account.signature) == meaning, raw.hex()
        assert (of_ethers.get("fields"), of_ethers.get("signature")) == meaning, (
            json.dumps(of_ethers),
            raw.hex(),
        )
        if recover:
            sender = _sender(signed)
            assert (eth_account.recover(raw), of_ethers["sender"]) == (sender, sender)
    assert len(mutations) // 4 < accepted < len(mutations)


def _mutations(raw: bytes, flips: tuple[int, ...]) -> Iterator[bytes]:
    for i, byte in enumerate(raw):
        for flip in flips:
            yield raw[:i] + bytes([byte ^ flip]) + raw[i + 1 :]


def _signature(signed: SignedBytes) -> dict[str, str]:
    numbers = signed.signature
    return {
        "yParity": hex(numbers.y_parity),
        "r": hex(numbers.r),
        "s": hex(numbers.s),
    }


def _sender(signed: SignedBytes) -> str | None:
    try:
        digest = signed.transaction.signing_digest()
        return signed.signature.recover(digest).address
    except RecoveryError:
        return None
