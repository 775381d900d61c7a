"""A key becomes active only if the vault of each network lets it pay."""

from dataclasses import replace
from typing import Any

import pytest

from backends.json_rpc import JSONRPCChain
from signer.chain.chain import Chain
from signer.config.networks import Network
from signer.deadline import Deadlines
from signer.errors import ChainUnavailableError, VaultOperatorMissingError
from signer.keys.rotation import RotationOptions
from signer.keys.vault_operators import RevokedOperator, VaultOperators
from signer.model.key import KeyState, find_key
from tests.fixtures.chain import DevChain
from tests.support.keys import key_at
from tests.support.refunds import altered
from tests.support.ring import ALICE, NEW, OLD, System
from tests.support.vault import LocalVault, deploy_vault
from tests.unit.signer.keys.conftest import Hang


@pytest.fixture
def vault(system: System, fresh_anvil: DevChain) -> LocalVault:
    """The vault of the network "one": only the active key may pay."""
    vault = deploy_vault(
        fresh_anvil.url,
        fresh_anvil.token,
        caps=(5, 9),
        funds=100,
        operators=[system.address(OLD)],
    )
    system.chains |= {"plain": _chain(vault, None), "one": _chain(vault, vault.address)}
    return vault


def _chain(vault: LocalVault, address: str | None, **methods: Any) -> Chain:
    token = {"address": vault.token, "decimals": 6, "max_amount": "1"}
    network = Network.model_validate(
        {
            "chain_id": 31337,
            "rpc_urls": [vault.url],
            "tokens": {"TUSD": token},
            "vault": address,
        }
    )
    client = JSONRPCChain([vault.url], timeout=10)
    return Chain(network, altered(client, **methods))


def _operators(system: System) -> VaultOperators:
    return VaultOperators(system.chains, Deadlines())


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_key_that_may_not_pay_does_not_become_active(
    system: System, vault: LocalVault, *, dry_run: bool
) -> None:
    """O9: the error has address, networks and commands; a retry continues."""
    options = RotationOptions(dry_run=dry_run)
    new = system.address(NEW)
    with pytest.raises(VaultOperatorMissingError) as caught:
        system.rotation().rotate(NEW, ALICE, options)

    assert str(caught.value) == (
        f"the key of {new} may not pay from the vault of one ({vault.address}): let the"
        " guardian add it, and repeat the request after the delay. Run: hotwallet vault"
        f" propose --network one --add-operator {new}"
    )
    states = {OLD: "active"} if dry_run else {OLD: "active", NEW: "rejected"}
    assert system.states == states

    vault.after_delay("addOperator(address)", new)
    rotated = system.rotation().rotate(NEW, ALICE, options)
    assert rotated.status == ("would-rotate" if dry_run else "rotated")


@pytest.mark.parametrize("is_down", [True, False])
def test_an_emergency_does_not_wait_for_a_vault(
    system: System, vault: LocalVault, *, is_down: bool
) -> None:
    """The compromised key is blocked; a warning has what is left to do."""
    down = ChainUnavailableError("no node answers")
    if is_down:
        system.chains["one"] = _chain(vault, vault.address, code=down)
    options = RotationOptions(
        compromised=True, without_funds=True, active_address=system.address(OLD)
    )
    rehearsed = system.rotation().rotate(NEW, ALICE, replace(options, dry_run=True))
    rotated = system.rotation().rotate(NEW, ALICE, options)

    step = "the nodes of one do not say" if is_down else "--add-operator"
    for result in (rehearsed, rotated):
        assert any(step in each for each in result.warnings)
    assert system.states == {OLD: "blocked", NEW: "active"}


def test_all_vaults_are_named(system: System, vault: LocalVault) -> None:
    """So that the guardians of all of them can begin at once."""
    system.chains["token"] = _chain(
        vault, vault.token, call=lambda _: (1).to_bytes(32, "big")
    )  # No answer of another contract lets a key pay.

    system.chains["two"] = system.chains["one"]
    system.chains["down"] = _chain(
        vault, vault.address, call=ChainUnavailableError("no node answers")
    )
    with pytest.raises(VaultOperatorMissingError) as caught:
        _operators(system).require(system.address(NEW))

    message = str(caught.value)
    places = f"one ({vault.address}), token ({vault.token}), two ({vault.address})"
    assert f"of {places}:" in message
    for network in ("one", "token", "two"):
        assert f"propose --network {network} --add-operator" in message
    assert "down" not in message


def test_a_key_of_which_nothing_is_known_does_not_become_active(
    system: System, vault: LocalVault
) -> None:
    """The row of the new key says why; another attempt need not wait."""
    down = ChainUnavailableError("no node answers")
    system.chains["one"] = _chain(vault, vault.address, code=down)
    with pytest.raises(ChainUnavailableError, match="nodes of one do not say"):
        system.rotation().rotate(NEW, ALICE)

    row = find_key(system.store.keys(), system.address(NEW))
    assert row is not None
    assert (row.state, row.blocked_by) == (KeyState.REJECTED, "chain-unavailable")
    assert system.states[OLD] == "active"


def test_a_rotation_ends_if_the_nodes_hang(
    system: System, vault: LocalVault, hang: Hang
) -> None:
    """After a few seconds."""
    system.chains["one"] = _chain(vault, vault.address, code=hang)
    with pytest.raises(ChainUnavailableError):
        _operators(system).require(system.address(OLD))

    assert hang.waits[0] <= 3


def test_a_revoked_key_is_reported_until_the_chain_shows_that_it_is_gone(
    system: System, vault: LocalVault
) -> None:
    """Former keys are not: they may still finish what they began."""
    old = system.address(OLD)
    revoked = key_at(old, state=KeyState.BLOCKED)
    ring = [revoked, key_at(system.address(NEW), state=KeyState.BLOCKED)]
    (found,) = _operators(system).revoked(ring)

    assert found == RevokedOperator("one", old, is_known=True)
    assert found.problem.message == (
        f"the revoked key of {old} may still pay from the vault of one; its guardian"
        f" removes it: `hotwallet vault propose --network one --remove-operator {old}`"
    )
    assert _operators(system).revoked([key_at(old, state=KeyState.DRAINING)]) == []
    vault.call(vault.guardian, "removeOperator(address)", old)
    assert _operators(system).revoked(ring) == []
    # What is unknown is not done.
    down = ChainUnavailableError("no node answers")
    system.chains["one"] = _chain(vault, vault.address, call=down)
    (unknown,) = _operators(system).revoked([revoked])
    assert not unknown.is_known
    assert "may still be able to pay (no node answers)" in unknown.problem.message
