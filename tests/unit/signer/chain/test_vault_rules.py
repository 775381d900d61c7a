"""The rules of a vault, read from a real one on anvil."""

import pytest
from eth_abi.abi import encode
from eth_utils.address import to_checksum_address

from backends.json_rpc import JSONRPCChain
from signer.chain.vault import PROPOSED_EVENT, Caps, Item, VaultRules, encode_call
from signer.errors import ChainError, EncodingError
from signer.ports.chain import Log
from tests.fixtures.chain import DevChain
from tests.support.vault import DELAY, LocalVault, deploy_vault


OTHER = "0x" + "77" * 20
DAY = 86_400


@pytest.fixture
def vault(fresh_anvil: DevChain) -> LocalVault:
    """A vault that may pay 5 an item and 9 a day."""
    return deploy_vault(fresh_anvil.url, fresh_anvil.token, caps=(5, 9), funds=100)


@pytest.fixture
def rules(vault: LocalVault) -> VaultRules:
    """Return the rules of the vault."""
    return VaultRules(JSONRPCChain([vault.url], timeout=10), vault.address)


def test_the_rules_are_those_of_the_deployment(
    vault: LocalVault, rules: VaultRules
) -> None:
    """Guardian, delay, operators and caps."""
    assert rules.is_vault()
    assert rules.guardian() == to_checksum_address(vault.guardian)
    assert rules.delay() == DELAY
    assert all(map(rules.is_operator, vault.operators))
    assert not rules.is_operator(OTHER)
    assert rules.caps(vault.token) == Caps(5, 9)
    assert rules.caps(OTHER) == Caps(0, 0)


def test_what_was_spent_is_that_of_a_day(vault: LocalVault, rules: VaultRules) -> None:
    """Another day has its own."""
    receipt = vault.pay([Item(OTHER, 4, bytes(16)), Item(OTHER, 3, bytes(16))])
    block = vault.rpc("eth_getBlockByNumber", hex(receipt.block.number), False)
    day = int(block["timestamp"], 16) // DAY

    assert rules.spent(vault.token, day) == 7
    assert rules.spent(vault.token, day + 1) == 0


def test_a_proposal_has_a_time(vault: LocalVault, rules: VaultRules) -> None:
    """Until it is cancelled."""
    change = encode_call("addOperator(address)", OTHER)
    assert rules.due_at(change) == 0
    sent = vault.call(vault.guardian, "propose(bytes)", change)
    block = vault.rpc("eth_getBlockByHash", sent["blockHash"], False)

    assert rules.due_at(change) == int(block["timestamp"], 16) + DELAY
    vault.call(vault.guardian, "cancel(bytes)", change)
    assert rules.due_at(change) == 0


def test_a_proposal_is_pending_until_it_is_cancelled(
    vault: LocalVault, rules: VaultRules
) -> None:
    """Also if it was proposed twice."""
    change = encode_call("addOperator(address)", OTHER)
    data = encode(["bytes", "uint256"], [change, 5])
    events = [Log(vault.address, (PROPOSED_EVENT,), data)] * 2
    vault.call(vault.guardian, "propose(bytes)", change)

    assert rules.pending(events) == {change: rules.due_at(change)}
    vault.call(vault.guardian, "cancel(bytes)", change)
    assert rules.pending(events) == {}
    with pytest.raises(EncodingError, match="no proposal"):
        rules.pending([Log(vault.address, (PROPOSED_EVENT,), b"\0" * 31)])


def test_a_call_is_permitted_or_not(vault: LocalVault, rules: VaultRules) -> None:
    """By who makes it."""
    change = encode_call("removeOperator(address)", vault.operators[1])

    assert rules.permits(vault.guardian, change)
    assert not rules.permits(vault.operators[0], change)


def test_another_contract_is_no_vault(vault: LocalVault) -> None:
    """Its answers are refused, or have no meaning."""
    client = JSONRPCChain([vault.url], timeout=10)

    assert not VaultRules(client, vault.token).is_vault()
    assert not VaultRules(client, OTHER).is_vault()
    with pytest.raises(ChainError):
        VaultRules(client, vault.token).guardian()
    with pytest.raises(EncodingError, match="guardian"):
        VaultRules(client, OTHER).guardian()
