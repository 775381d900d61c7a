"""The vault's encoder and decoder with the real contract, on anvil."""

import random
from dataclasses import replace

import pytest
from eth_utils.address import to_checksum_address

from dev import stablecoin as coin
from dev.rpc import RPCError
from dev.stablecoin import Behaviour
from signer.chain.vault import (
    End,
    Item,
    Reason,
    decode_pay,
    encode_pay,
    has_vault_code,
)
from signer.crypto.transactions import MAX_GAS
from tests.fixtures.chain import DevChain
from tests.fixtures.scripted_vault import ScriptedVault
from tests.support.vault import LocalVault, deploy_vault, gas_bound


PER_ITEM, PER_DAY = 10**9, 50 * 10**9
AMOUNT = 1_234_567
PAID = End(None, has_transfer=True)


@pytest.fixture
def fiat(fresh_anvil: DevChain) -> LocalVault:
    """A vault of a token that is a proxy with a blocklist, like USDC."""
    token = coin.deploy(fresh_anvil.url, "FiatUSD")
    return deploy_vault(fresh_anvil.url, token, caps=(PER_ITEM, PER_DAY), funds=10**12)


@pytest.fixture
def weird(fresh_anvil: DevChain) -> LocalVault:
    """A vault of a token that misbehaves."""
    token = coin.deploy(fresh_anvil.url, "WeirdUSD")
    return deploy_vault(fresh_anvil.url, token, caps=(PER_ITEM, PER_DAY), funds=10**12)


def _items(count: int, seed: int = 1) -> list[Item]:
    chosen = random.Random(seed)
    return [
        Item("0x" + chosen.randbytes(20).hex(), AMOUNT, chosen.randbytes(16))
        for _ in range(count)
    ]


def _gas(vault: LocalVault, items: list[Item]) -> int:
    data = encode_pay(vault.token, items)
    sent = vault.send(vault.operators[0], data, MAX_GAS)
    return int(sent["gasUsed"], 16)


def test_the_chain_has_the_pinned_code(fiat: LocalVault) -> None:
    """Every vault has the same, whatever it was deployed with."""
    code = fiat.rpc("eth_getCode", fiat.address, "latest")

    assert has_vault_code(bytes.fromhex(code[2:]))


def test_100_known_payees_cost_at_most_13300_gas_each(fiat: LocalVault) -> None:
    """Calldata, marks and events included."""
    items = _items(100)
    new = _gas(fiat, items)
    known = _gas(fiat, items)

    assert known <= 13_300 * 100
    assert new <= 30_600 * 100


def test_the_token_costs_what_usdc_costs(fiat: LocalVault) -> None:
    """Otherwise the figures above would say nothing: FiatTokenV2_2 takes 45,059 gas."""
    payee, payer = fiat.operators
    for account in fiat.operators:
        coin.administer(fiat.url, fiat.token, "mint(address,uint256)", account, 10**9)
    data = coin.calldata("transfer(address,uint256)", payee, AMOUNT)
    sent = {"from": payer, "to": fiat.token, "data": "0x" + data.hex()}
    gas = int(fiat.rpc.transact(sent)["gasUsed"], 16)

    assert 45_059 <= gas <= 45_200


@pytest.mark.parametrize("seed", range(3))
def test_ends_and_balances_agree(fiat: LocalVault, seed: int) -> None:
    """Bad payees of each kind at any place: exactly the others are paid."""
    chosen = random.Random(seed)
    items, expected = [], []
    for item in _items(chosen.randint(1, 25), seed):
        kind = chosen.choice(["good", "good", "blocked", "too much"])
        if kind == "blocked":
            coin.administer(
                fiat.url, fiat.token, "setBlocked(address,bool)", item.recipient, True
            )
        amount = PER_ITEM + 1 if kind == "too much" else chosen.randint(1, AMOUNT)
        items.append(replace(item, amount=amount))
        reason = {
            "good": None,
            "blocked": Reason.REVERTED,
            "too much": Reason.NOT_WITHIN_ITEM_CAP,
        }[kind]
        expected.append(End(reason, has_transfer=reason is None))

    receipt = fiat.pay(items)

    mined = fiat.rpc("eth_getTransactionByHash", receipt.tx_hash)
    calldata = bytes.fromhex(mined["input"][2:])
    assert decode_pay(calldata) == (fiat.token.lower(), tuple(items))
    ends = fiat.ends(items)  # Again, with the same ends.
    assert [*ends] == expected
    paid = sum(
        item.amount for item, end in zip(items, expected, strict=True) if end == PAID
    )
    assert fiat.balance() == 10**12 - 2 * paid
    for item, end in zip(items, expected, strict=True):
        held = coin.balance_of(fiat.url, fiat.token, item.recipient)
        assert held == (2 * item.amount if end == PAID else 0)


def test_what_is_left_of_the_day_decides(fiat: LocalVault) -> None:
    """A smaller item after one that is too large is paid."""
    full = [replace(each, amount=PER_ITEM) for each in _items(50)]
    assert set(fiat.ends(full[:49])) == {PAID}
    last = [
        replace(full[0], amount=PER_ITEM - 1),
        replace(full[1], amount=2),
        replace(full[2], amount=1),
    ]

    over = End(Reason.ABOVE_DAY_CAP, has_transfer=False)
    assert fiat.ends(last) == (PAID, over, PAID)
    assert fiat.balance() == 10**12 - PER_DAY


def test_the_vault_in_memory_emits_the_same_events(fiat: LocalVault) -> None:
    """Other tests and the simulation use it in place of the contract."""
    items = [
        replace(each, amount=amount)
        for each, amount in zip(
            _items(8),
            (AMOUNT, PER_ITEM + 1, AMOUNT, PER_ITEM, PER_ITEM, AMOUNT, PER_ITEM, 1),
            strict=True,
        )
    ]
    blocked = to_checksum_address(items[2].recipient)
    coin.administer(fiat.url, fiat.token, "setBlocked(address,bool)", blocked, True)
    operator, stranger = fiat.operators[0], fiat.guardian
    fake = ScriptedVault(
        to_checksum_address(fiat.address),
        to_checksum_address(fiat.token),
        {to_checksum_address(operator)},
        per_item=PER_ITEM,
        per_day=PER_DAY,
        refused={blocked},
    )
    # Both have three items of the largest amount left.
    full = [replace(each, amount=PER_ITEM) for each in _items(47, seed=2)]
    spent = 47 * PER_ITEM
    assert set(fiat.ends(full)) == {PAID}

    receipt = fiat.pay(items)
    data = encode_pay(fiat.token, items)

    gas = gas_bound(len(items))
    found = fake.pay(to_checksum_address(operator), data, spent, gas=gas)
    assert found is not None
    assert [(log.address.lower(), log.topics, log.data) for log in receipt.logs] == [
        (log.address.lower(), log.topics, log.data) for log in found
    ]
    assert fake.pay(to_checksum_address(stranger), data, spent, gas=gas) is None
    with pytest.raises(RPCError):
        fiat.send(stranger, data, gas)
    for view in ("isOperator(address)", "caps(address)"):
        asked = operator if "Operator" in view else fiat.token
        call = coin.calldata(view, asked)
        answer = fiat.rpc(
            "eth_call", {"to": fiat.address, "data": "0x" + call.hex()}, "latest"
        )
        assert bytes.fromhex(answer[2:]) == fake.answer(call, spent)


# A lie is an end that the token's event does not prove.
_ENDS = {
    Behaviour.GOOD: PAID,
    Behaviour.RETURNS_NOTHING: PAID,
    Behaviour.RETURNS_FALSE: End(Reason.NOT_TRUE, has_transfer=False),
    Behaviour.REVERTS_WITH_REASON: End(Reason.REVERTED, has_transfer=False),
    Behaviour.REVERTS_WITH_ERROR: End(Reason.REVERTED, has_transfer=False),
    Behaviour.REVERTS_SILENTLY: End(Reason.REVERTED, has_transfer=False),
    Behaviour.PANICS: End(Reason.REVERTED, has_transfer=False),
    Behaviour.CHARGES_RECIPIENT: End(None, has_transfer=False),
    Behaviour.CHARGES_SENDER: PAID,
    Behaviour.REPEATS_EVENT: End(None, has_transfer=False),
    Behaviour.OVERSTATES_EVENT: End(None, has_transfer=False),
    Behaviour.SAYS_NOTHING: End(None, has_transfer=False),
}


def test_a_token_that_misbehaves(weird: LocalVault) -> None:
    """The call does not revert, and the ends are what the events prove."""
    for behaviour in Behaviour:
        coin.behave(weird.url, weird.token, behaviour)

        assert weird.ends(_items(3)) == (_ENDS[behaviour],) * 3, behaviour


def test_an_estimate_pays_all(fiat: LocalVault) -> None:
    """Too little gas reverts, so that the least that succeeds pays each item."""
    items = _items(10)
    call = {
        "from": fiat.operators[0],
        "to": fiat.address,
        "data": "0x" + encode_pay(fiat.token, items).hex(),
    }
    estimate = int(fiat.rpc("eth_estimateGas", call), 16)
    assert estimate < gas_bound(10)

    with pytest.raises(RPCError, match="failed"):
        fiat.pay(items, estimate // 2)
    assert fiat.balance() == 10**12
    receipt = fiat.pay(items, estimate)

    assert len(receipt.logs) == 20
    assert fiat.balance() == 10**12 - 10 * AMOUNT
