"""A program with an account of ``HSMAccount`` that was opened before a revocation."""

from collections.abc import Callable
from typing import Any, cast

import pytest
from eth_account.messages import encode_defunct
from eth_account.types import TransactionDictType
from eth_typing import Hash32
from sqlalchemy import event, text

from backends.sql import SQLStore
from signer.account import HSMAccount
from signer.errors import (
    KeyUnusableError,
    RowNotAuthenticError,
    SigningStoppedError,
    StoreUnavailableError,
)
from signer.keys.rotation import RotationOptions
from signer.model.hold import EVERYTHING
from signer.policy.default_rules import account_policy
from tests.fixtures.ledger import stopped
from tests.support.ledgers import open_ledger
from tests.support.ring import ALICE, ELSEWHERE, NEW, OLD, System


# As a program that wants every method: what is tested is the ring.
POLICY = account_policy(
    '@id("all") permit (principal, action, resource);', shares_service_wallet=True
)

COMMON: dict[str, Any] = {
    "nonce": 1,
    "gas": 21_000,
    "to": "0x" + "11" * 20,
    "chainId": 1,
}

SIGN: dict[str, Callable[[HSMAccount], Any]] = {
    "hash": lambda account: account.unsafe_sign_hash(cast("Hash32", b"\x07" * 32)),
    "message": lambda account: account.sign_message(encode_defunct(text="hi")),
    "typed data": lambda account: account.sign_typed_data(
        {"name": "x"}, {"X": [{"name": "y", "type": "uint256"}]}, {"y": 1}
    ),
    "legacy": lambda account: account.sign_transaction(
        cast("TransactionDictType", {**COMMON, "gasPrice": 1})
    ),
    "type 2": lambda account: account.sign_transaction(
        cast(
            "TransactionDictType",
            {**COMMON, "value": 0, "maxFeePerGas": 2, "maxPriorityFeePerGas": 1},
        )
    ),
}


@pytest.fixture
def system(sqlite_store: SQLStore) -> System:
    """A ring with an active key, and a replica of it under another id."""
    system = System(sqlite_store)
    system.replicate(OLD, ELSEWHERE)
    return system


@pytest.fixture
def account(system: System) -> HSMAccount:
    """Return an account that has signed before the revocation."""
    account = HSMAccount.open(system.directory, OLD, ledger=system.store, policy=POLICY)
    for sign in SIGN.values():
        sign(account)
    return account


def _revoke(system: System) -> None:
    system.rotation().rotate(NEW, ALICE)
    system.revocation().revoke(system.old.address, ALICE)


def _rotate_compromised(system: System) -> None:
    options = RotationOptions(compromised=True, active_address=system.old.address)
    system.rotation().rotate(NEW, ALICE, options)


@pytest.mark.parametrize("revoke", [_revoke, _rotate_compromised])
def test_an_account_opened_before_a_revocation(
    system: System, account: HSMAccount, revoke: Callable[[System], None]
) -> None:
    """No method asks the device after the revocation, in this or another process."""
    revoke(system)
    asked = system.directory.devices[OLD].calls

    for sign in SIGN.values():
        with pytest.raises(KeyUnusableError, match="revoked"):
            sign(account)
        with pytest.raises(KeyUnusableError, match="revoked"):
            sign(
                HSMAccount.open(
                    system.directory, OLD, ledger=system.store, policy=POLICY
                )
            )
    assert system.directory.devices[OLD].calls == asked


def test_a_rotation_without_a_revocation_lets_the_account_sign(
    system: System, account: HSMAccount
) -> None:
    """The key is draining; its address may have to move what it holds."""
    system.rotation().rotate(NEW, ALICE)

    assert SIGN["message"](account)


def test_an_account_of_a_key_id_that_failed_over(
    system: System, account: HSMAccount
) -> None:
    system.failover().fail_over(ELSEWHERE, ALICE)

    with pytest.raises(KeyUnusableError, match="opened again"):
        SIGN["message"](account)
    assert SIGN["message"](
        HSMAccount.open(system.directory, ELSEWHERE, ledger=system.store, policy=POLICY)
    )


def test_an_account_of_a_key_that_is_not_in_the_ring(system: System) -> None:
    account = HSMAccount.open(system.directory, NEW, ledger=system.store, policy=POLICY)

    with pytest.raises(KeyUnusableError, match="never was in the ring"):
        SIGN["message"](account)


def test_a_changed_row_of_the_ring(system: System, account: HSMAccount) -> None:
    """A thief of the database cannot make a revoked key sign again."""
    _rotate_compromised(system)
    change = text(
        "UPDATE keys SET state = 'draining', version = version + 1"
        f" WHERE address = '{system.old.address}'"
    )
    system.store._database.write(lambda c: c.execute(change))

    for sign in SIGN.values():
        with pytest.raises(RowNotAuthenticError):
            sign(account)


def test_a_stopped_network(system: System, account: HSMAccount) -> None:
    """A stop of a network forbids its transactions, and one of everything all."""
    stopped(system.store, COMMON["chainId"])
    for name in ("legacy", "type 2"):
        with pytest.raises(SigningStoppedError):
            SIGN[name](account)
    assert SIGN["message"](account)

    stopped(system.store, EVERYTHING)
    with pytest.raises(SigningStoppedError):
        SIGN["message"](account)


def test_a_signature_costs_two_small_reads(system: System, account: HSMAccount) -> None:
    """The key's row and the stops are read in the commit of the intent."""
    engine = system.store._database._process().engine
    statements: list[str] = []

    def note(*arguments: Any) -> None:
        statements.append(arguments[2])

    event.listen(engine, "before_cursor_execute", note)
    SIGN["message"](account)
    event.remove(engine, "before_cursor_execute", note)

    assert sum(each.startswith("SELECT") for each in statements) == 2


def test_a_ledger_that_does_not_answer_stops_the_account(system: System) -> None:
    absent = open_ledger("postgresql://absent@127.0.0.1:1/nothing")
    account = HSMAccount.open(system.directory, OLD, ledger=absent, policy=POLICY)

    for sign in SIGN.values():
        with pytest.raises(StoreUnavailableError):
            sign(account)
    assert system.directory.devices[OLD].calls == 0


def test_an_account_without_a_ledger_needs_none(system: System) -> None:
    """It signs as before; only the device can refuse a revoked key."""
    account = HSMAccount.open(system.directory, OLD, policy=POLICY)
    _revoke(system)

    assert SIGN["message"](account)
