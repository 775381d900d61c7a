"""Many signatures, and a check that all are valid for Ethereum."""

import secrets
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from backends.testing import Device
from signer.keys.signer import Signer
from signer.model.audit_record import Operation
from tests.support.arithmetic import Verifier
from tests.support.devices import recording
from tests.support.signings import Unchecked


Signed = tuple[bytes, bytes]
"""A digest and its signature of 65 bytes."""

_PURPOSE = Unchecked(Operation.TRANSACTION_SIGNING, network="local")


def some_signatures(device: Device, number: int, threads: int = 4) -> list[Signed]:
    """Return signatures of *device* over *number* random digests."""
    signer = Signer.open(device.signs, device.key, recording()[0])

    def sign(_: int) -> Signed:
        digest = secrets.token_bytes(32)
        return digest, signer.sign_digest(digest, _PURPOSE).to_bytes()

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(sign, range(number)))


def all_good(device: Device, signatures: Sequence[Signed]) -> bool:
    """
    Return whether all are 65 bytes, distinct, low-s, and recover to the key.

    The arithmetic and the parser of the key share no code with the signer.
    """
    point = device.loaded().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    verifier = Verifier(point, tables=True)
    distinct = {signature[:32] for _, signature in signatures}
    return len(distinct) == len(signatures) and all(
        verifier.accepts(digest, signature) for digest, signature in signatures
    )
