"""Keccak-256 by either library, and the public key of a private one."""

import importlib.util
import sys

import pytest
from eth_utils.crypto import keccak as reference
from hypothesis import given
from hypothesis import strategies as st

from signer.crypto import keccak as module
from signer.crypto.secp256k1 import public_key_of


@pytest.fixture
def without_pysha3(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in an environment that has the account alone."""
    monkeypatch.setitem(sys.modules, "sha3", None)


@given(st.binary(max_size=300))
def test_the_faster_library_hashes_like_eth_utils(data: bytes) -> None:
    assert module.keccak(data) == reference(data)


@pytest.mark.usefixtures("without_pysha3")
@pytest.mark.parametrize("data", [b"", b"a", bytes(136), bytes(1000)])
def test_the_other_library_hashes_alike(data: bytes) -> None:
    """136 bytes are one block of Keccak-256."""
    spec = importlib.util.find_spec(module.__name__)
    assert spec is not None
    assert spec.loader is not None
    other = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(other)

    assert other.keccak(data) == reference(data)
    assert other.keccak is not module.keccak


def test_the_public_key_of_a_private_one() -> None:
    """The address of the key 1 is widely known."""
    one = (1).to_bytes(32, "big")

    assert public_key_of(one).address == "0x7E5F4552091A69125d5DfCb7b8C2659029395Bdf"
