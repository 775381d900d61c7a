"""All key backends, each with a key."""

from dataclasses import dataclass
from typing import Protocol, cast

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key

from signer.ports import KeyBackend, KeyId
from tests.contract.reference import ReferenceBackend


DEVICES = ("reference", "softhsm", "kms", "ministack")

_ABSENT = "00000000-0000-0000-0000-000000000000"


class KeyGenerator(KeyBackend, Protocol):
    """A backend that can create keys."""

    def generate(self, label: str) -> KeyId:
        """Create a non-extractable secp256k1 key and return its id."""


@dataclass(frozen=True)
class Device:
    """
    The backend *name* under test.

    ``signs`` has ``key``, and ``makes`` generates more keys.

    ``absent`` is the well-formed id of a key that does not exist.
    """

    name: str
    signs: KeyBackend
    makes: KeyGenerator
    key: KeyId
    absent: KeyId

    def loaded(self, key_id: KeyId | None = None) -> EllipticCurvePublicKey:
        """Return the public key as pyca/cryptography reads it."""
        spki = self.signs.public_key(key_id or self.key)
        return cast("EllipticCurvePublicKey", load_der_public_key(spki))


def open_device(name: str, request: pytest.FixtureRequest) -> Device:
    """
    Return the device called *name*, from the fixtures that own it.

    A missing SoftHSM or ministack fails the tests.
    """
    if name == "reference":
        return _with_key(name, ReferenceBackend())
    if name == "ministack":
        return _with_key(name, request.getfixturevalue("ministack"))
    signs = request.getfixturevalue(name)
    makes = request.getfixturevalue("kms_administrator") if name == "kms" else signs
    key = request.getfixturevalue(f"{name}_key")
    return Device(name, signs, makes, key, _absent(key))


def _with_key(name: str, backend: KeyGenerator) -> Device:
    key = backend.generate("the contract's key")
    return Device(name, backend, backend, key, _absent(key))


def _absent(key: KeyId) -> KeyId:
    before, slash, own = key.rpartition("/")
    return KeyId(before + slash + (_ABSENT if "-" in own else _ABSENT.replace("-", "")))
