"""A program that sends from the address from which a service pays refunds."""

from typing import Any, cast

import pytest
from eth_account.messages import encode_defunct

from backends.sql import SQLStore
from signer.account import HSMAccount
from signer.errors import InvalidInputError, KeyUnusableError, PolicyViolationError
from signer.model.wallet import Wallet
from signer.policy.default_rules import account_policy
from signer.policy.policy import Policy
from tests.support.ledgers import seal
from tests.support.ring import ALICE, NEW, OLD, System


CHAIN = 31_337
FIELDS = {
    "nonce": 1,
    "gas": 21_000,
    "to": "0x" + "11" * 20,
    "value": 1,
    "maxFeePerGas": 2,
    "maxPriorityFeePerGas": 1,
}
EVERYTHING = '@id("everything") permit (principal, action, resource);'
DELEGATION = {"address": "0x" + "11" * 20, "nonce": 1}


@pytest.fixture
def system(sqlite_store: SQLStore) -> System:
    """A ring whose active key pays on one chain."""
    system = System(sqlite_store)
    system.store.open_wallet(Wallet(CHAIN, system.old.address, 0, 0))
    return system


def _open(system: System, policy: Policy | None = None, key: str = OLD) -> HSMAccount:
    return HSMAccount.open(
        system.directory, key, ledger=system.store, policy=policy, actor="script"
    )


def _send(account: HSMAccount, chain_id: int = CHAIN) -> Any:
    return account.sign_transaction(cast("Any", {**FIELDS, "chainId": chain_id}))


@pytest.mark.parametrize("chain_id", [CHAIN, 1])
def test_the_active_key(system: System, chain_id: int) -> None:
    """It is refused on each chain: the service may open a wallet there tomorrow."""
    account = _open(system)

    with pytest.raises(
        PolicyViolationError, match="send with eth_sendTransaction"
    ) as no:
        _send(account, chain_id)

    assert no.value.rule == "service-wallet"
    assert system.directory.devices[OLD].calls == 0
    system.begin_rotation(NEW)  # It will pay when its rotation ends.
    with pytest.raises(PolicyViolationError):
        _send(_open(system, key=NEW), CHAIN)


def test_messages_use_no_nonce(system: System) -> None:
    """They cannot pause a wallet, so they are signed."""
    assert _open(system).sign_message(encode_defunct(text="hello"))


def test_a_revoked_key(system: System) -> None:
    """The account was opened before; the ring decides when it signs."""
    account = _open(system)
    system.rotation().rotate(NEW, ALICE)
    system.revocation().revoke(system.old.address, ALICE)

    with pytest.raises(KeyUnusableError, match="it was revoked"):
        account.sign_message(encode_defunct(text="hello"))


def test_a_former_key(system: System) -> None:
    """It is refused where it paid, and free on the other chains."""
    account = _open(system)
    system.rotation().rotate(NEW, ALICE)

    with pytest.raises(PolicyViolationError) as refused:
        _send(account)
    assert refused.value.rule == "service-wallet"
    assert _send(account, 1)
    with pytest.raises(InvalidInputError, match="EIP-2294"):
        _send(account, 2**63)  # No column of a database has it.


def test_no_other_permit_opens_the_wallet(system: System) -> None:
    """A rule that permits everything does not; the option has a name of its own."""
    with pytest.raises(PolicyViolationError) as refused:
        _send(_open(system, account_policy(EVERYTHING)))
    assert refused.value.rule == "service-wallet"

    shared = account_policy(shares_service_wallet=True)
    assert _send(_open(system, shared))
    assert shared.hash != account_policy().hash


@pytest.mark.parametrize(
    ("chain_id", "is_refused"), [(CHAIN, True), (0, True), (1, False), (2**63, False)]
)
def test_a_delegation_uses_a_nonce(
    system: System, chain_id: int, is_refused: bool
) -> None:
    """EIP-7702: an authorisation raises the nonce, with chain id 0 on every chain."""
    system.rotation().rotate(NEW, ALICE)
    account = _open(system, account_policy(EVERYTHING))
    authorization = {**DELEGATION, "chainId": chain_id}

    if is_refused:
        with pytest.raises(PolicyViolationError) as refused:
            account.sign_authorization(authorization)
        assert refused.value.rule == "service-wallet"
    else:
        assert account.sign_authorization(authorization)


def test_a_delegation_is_refused_by_default(system: System) -> None:
    """By policy, not because the method is missing (T6)."""
    system.rotation().rotate(NEW, ALICE)

    with pytest.raises(PolicyViolationError) as refused:
        _open(system).sign_authorization({**DELEGATION, "chainId": 1})

    assert refused.value.rule == "delegation"


def test_the_audit_names_the_user_and_the_rule(system: System) -> None:
    """The intent and the outcome are in the service's audit log (A1)."""
    policy = account_policy(shares_service_wallet=True)
    _send(_open(system, policy))
    seal(system.store)

    records = [each.record.fields for each in system.store.sealed(0, 1000)]
    decided = {"policy": policy.short_hash, "rule": "transaction"}
    assert [(each["event"], each["actor"]) for each in records] == [
        ("digest-sign-requested", "script"),
        ("digest-sign-succeeded", "script"),
    ]
    for each in records:
        assert each["details"].items() >= decided.items()
