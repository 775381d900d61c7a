"""Transactions of type 0x76, compared with ox."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from signer.crypto.keccak import checksum_address
from signer.crypto.secp256k1 import HALF_N, N, Signature
from signer.crypto.transactions import SignedBytes, TempoTransaction


_PROGRAM = Path(__file__).with_name("ox_tempo.mjs")
_SIZES = (0, 1, 31, 32, 55, 56, 68, 100, 255, 256, 1000)


def test_type_0x76_is_that_of_ox() -> None:
    """Digest and bytes of 5,000 transactions; and the bytes are decoded again (S11)."""
    made = [*_generate(5_000)]
    answers = _ask([_describe(*each) for each in made])

    for (transaction, signature), answer in zip(made, answers, strict=True):
        signed = SignedBytes.of(transaction, signature)
        assert "0x" + transaction.signing_digest().hex() == answer["digest"]
        assert "0x" + signed.raw.hex() == answer["raw"]


def _generate(count: int) -> Iterator[tuple[TempoTransaction, Signature]]:
    random = Random(118)

    def number(bits: int) -> int:
        return random.getrandbits(random.randrange(bits + 1))

    def address() -> str:
        return checksum_address(random.randbytes(20).hex())

    for _ in range(count):
        max_fee = number(120)
        yield (
            TempoTransaction(
                chain_id=number(50) + 1,
                nonce=number(63),
                gas=number(64),
                max_fee_per_gas=max_fee,
                max_priority_fee_per_gas=random.randint(0, max_fee),
                to=address(),
                value=number(256),
                data=random.randbytes(random.choice(_SIZES)),
                access_list=tuple(
                    (address(), tuple(random.randbytes(32) for _ in range(keys)))
                    for keys in range(random.choice((0, 0, 1, 3)))
                ),
                fee_token=address(),
            ),
            Signature(
                random.randrange(1, N), random.randint(1, HALF_N), random.getrandbits(1)
            ),
        )


def _describe(transaction: TempoTransaction, signature: Signature) -> dict[str, Any]:
    return {
        "chainId": transaction.chain_id,
        "nonce": str(transaction.nonce),
        "gas": str(transaction.gas),
        "maxFeePerGas": str(transaction.max_fee_per_gas),
        "maxPriorityFeePerGas": str(transaction.max_priority_fee_per_gas),
        "feeToken": transaction.fee_token,
        "accessList": [
            {"address": each, "storageKeys": ["0x" + key.hex() for key in keys]}
            for each, keys in transaction.access_list
        ],
        "call": {
            "to": transaction.to,
            "value": str(transaction.value),
            "data": "0x" + transaction.data.hex(),
        },
        "signature": {
            "r": str(signature.r),
            "s": str(signature.s),
            "yParity": signature.y_parity,
        },
    }


def _ask(requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    finished = subprocess.run(
        ["node", _PROGRAM],
        input="".join(json.dumps(request) + "\n" for request in requests),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return [json.loads(line) for line in finished.stdout.splitlines()]
