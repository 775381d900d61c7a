"""The laboratory decodes signed transactions without the service's code."""

import pytest
from bitcurve import PublicKey
from eth_account import Account
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak

from tests.crash.read_chain import Envelope


_COMMON = {"chainId": 31337, "nonce": 300, "gas": 21_000, "value": 1, "data": b""}
_FEES = {
    "EIP-1559": {"maxFeePerGas": 7, "maxPriorityFeePerGas": 1},
    "legacy": {"gasPrice": 7},
}


@pytest.mark.parametrize("kind", _FEES)
def test_decodes_a_signed_transaction(kind: str) -> None:
    """Chain, nonce, hash and digest are those of the transaction that was signed."""
    account = Account.create()
    signed = account.sign_transaction({**_COMMON, **_FEES[kind], "to": account.address})

    envelope = Envelope.opened(bytes(signed.raw_transaction))
    parity = signed.v if kind == "EIP-1559" else (signed.v - 35) % 2
    signature = signed.r.to_bytes(32) + signed.s.to_bytes(32) + bytes([parity])
    key = PublicKey.from_signature_and_message(
        signature, bytes.fromhex(envelope.digest), hasher=None
    )
    signer = to_checksum_address(keccak(key.format(compressed=False)[1:])[12:])

    assert (envelope.chain_id, envelope.nonce) == (31337, 300)
    assert envelope.tx_hash == f"0x{signed.hash.hex()}"
    assert signer == account.address
