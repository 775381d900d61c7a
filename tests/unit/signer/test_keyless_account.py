"""An HSM account is a ``LocalAccount`` that has no key to give away."""

import copy
import inspect
import pickle
from collections.abc import Callable
from typing import Any, cast

import bitcurve
import pytest
from eth_account import Account
from eth_account.signers.local import LocalAccount

from signer.account import HSMAccount
from signer.errors import InvalidInputError, KeyNotExportableError
from signer.policy.default_rules import account_policy
from tests.support.devices import honest, signer_over


SECRET = bytes.fromhex("46" * 32)
ACCOUNT = HSMAccount(signer_over(honest(bitcurve.PrivateKey(SECRET))))

EXPORTS: dict[str, Callable[[Any], object]] = {
    "key": lambda account: account.key,
    "privateKey": lambda account: account.privateKey,
    "_private_key": lambda account: account._private_key,
    "_key_obj": lambda account: account._key_obj,
    "_publicapi": lambda account: account._publicapi,
    "bytes": bytes,
    "encrypt": lambda account: account.encrypt("password", kdf="scrypt", iterations=2),
}


@pytest.mark.parametrize("export", EXPORTS.values(), ids=EXPORTS)
def test_the_key_cannot_be_exported(export: Callable[[Any], object]) -> None:
    """Each way to the key of a local account names the place of the key."""
    with pytest.raises(KeyNotExportableError, match="in the HSM and cannot be"):
        export(ACCOUNT)


def test_every_member_of_a_local_account_is_ours() -> None:
    """Nothing is inherited that would use a key; a new member fails here."""
    ours = {name for each in HSMAccount.__mro__[:2] for name in vars(each)}

    assert {*vars(LocalAccount)} - ours <= {"__module__", "__doc__"}
    local = vars(Account.from_key(SECRET))
    assert set(local) == {"_publicapi", "_address", "_private_key", "_key_obj"}


def test_programs_can_ask_whether_there_is_a_key() -> None:
    """``hasattr`` and ``inspect`` see an attribute that is absent."""
    assert not hasattr(ACCOUNT, "key")
    assert not hasattr(ACCOUNT, "nothing")
    assert "key" not in dict(inspect.getmembers(ACCOUNT))
    with pytest.raises(AttributeError, match="'HSMAccount' object has no attribute"):
        ACCOUNT.nothing  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.parametrize("reproduce", [pickle.dumps, copy.copy, copy.deepcopy])
def test_an_account_cannot_be_copied(reproduce: Callable[[Any], object]) -> None:
    """It holds a connection to a device, which one process has."""
    with pytest.raises(TypeError, match="cannot be pickled or copied"):
        reproduce(ACCOUNT)


def test_accounts_that_sign_differently_are_not_equal() -> None:
    """web3.py would keep a replaced middleware whose account is equal."""
    strict = account_policy('@id("never") forbid (principal, action, resource);')
    signer = signer_over(honest(bitcurve.PrivateKey(SECRET)))

    class Other(HSMAccount):
        pass

    assert HSMAccount(signer) == ACCOUNT
    assert {ACCOUNT: 1}[HSMAccount(signer)] == 1
    assert repr(ACCOUNT) == f"HSMAccount({ACCOUNT.address!r})"
    assert SECRET.hex() not in str(ACCOUNT) + repr(vars(ACCOUNT))
    assert isinstance(ACCOUNT, LocalAccount)
    assert Account.from_key(SECRET) != ACCOUNT

    assert HSMAccount(signer, policy=strict) != ACCOUNT
    assert HSMAccount(signer, "script") != ACCOUNT
    assert HSMAccount(signer, ledger=cast("Any", object())) != ACCOUNT
    assert Other(signer) != ACCOUNT
    assert ACCOUNT.address != ACCOUNT


def test_blobs_are_refused() -> None:
    """The transaction has their hashes; eth-account would add the blobs themselves."""
    with pytest.raises(InvalidInputError, match="blobVersionedHashes") as caught:
        ACCOUNT.sign_transaction({}, blobs=[b"\x00" * 131_072])

    assert caught.value.field == "blobs"
