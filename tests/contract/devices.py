"""All key backends, each with a key."""

import pytest

from backends.testing import Device, KeyGenerator
from signer.ports.key_backend import KeyBackend, KeyId
from tests.contract.reference import ReferenceBackend
from tests.fixtures.google_kms import GoogleKeys


DEVICES = ("reference", "softhsm", "kms", "ministack", "google_cloud_kms")

MODULES = (
    pytest.param("p11_kit", marks=pytest.mark.needs("p11-kit")),
    pytest.param("hostile", marks=pytest.mark.needs("cc")),
)
"""Other PKCS#11 modules than SoftHSM's."""

_ABSENT = "00000000-0000-0000-0000-000000000000"


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
    if name == "google_cloud_kms":
        return _google(request, signs)
    makes = request.getfixturevalue("kms_administrator") if name == "kms" else signs
    key = request.getfixturevalue(f"{name}_key")
    return Device(name, signs, makes, key, _absent(key))


def _google(request: pytest.FixtureRequest, signs: KeyBackend) -> Device:
    emulator = request.getfixturevalue("google_kms_emulator")
    key = KeyId(emulator.create_version())
    absent = KeyId(f"{key.rpartition('/')[0]}/999999")
    return Device("google_cloud_kms", signs, GoogleKeys(emulator, signs), key, absent)


def _with_key(name: str, backend: KeyGenerator) -> Device:
    key = backend.generate("the contract's key")
    return Device(name, backend, backend, key, _absent(key))


def _absent(key: KeyId) -> KeyId:
    before, slash, own = key.rpartition("/")
    return KeyId(before + slash + (_ABSENT if "-" in own else _ABSENT.replace("-", "")))
