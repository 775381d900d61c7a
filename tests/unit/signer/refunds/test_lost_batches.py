"""
A restored ledger recognises the items of batches that it has lost, by their marks.

The chain says how each ended.  ``tests/integration/test_lost_batches.py`` has a vault.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from importlib.resources import files
from typing import Any

import pytest
from eth_abi.abi import encode

from signer.chain.erc20 import TRANSFER_EVENT, encode_transfer
from signer.chain.vault import PAID_EVENT, SKIPPED_EVENT, Item, Reason, encode_pay
from signer.errors import ChainUnavailableError, RowNotAuthenticError, StaleStateError
from signer.model.refund import Refund, Status
from signer.model.transaction import CLAIM_TIME
from signer.model.wallet import NOOP_MEMO, PAID, Pause
from signer.ports.chain import Log, Receipt
from signer.refunds import wallet_reconciliation
from signer.refunds.wallet_reconciliation import read_lost_items
from tests.fixtures.ledger import forge
from tests.fixtures.scripted_chain import TOKEN
from tests.support.refunds import ACTOR, SECOND, VAULT, World, altered_chain


_ARTEFACT = json.loads(files("signer.chain").joinpath("vault.json").read_text("utf-8"))
_CODE = bytes.fromhex(_ARTEFACT["code"].removeprefix("0x"))

FORGED = "UPDATE unrecorded_transactions SET mac = 'tests:00' WHERE nonce = 0"


@pytest.fixture
def world(world: World) -> World:
    """Return a process of the service, whose wallet has not paid yet."""
    assert world.ring
    world.chain.codes[VAULT] = _CODE
    world.wallets.get_or_open(world.chains["local"], world.signer.address, 0)
    return world


@pytest.fixture
def vault_world(world: World) -> World:
    """Return a process of the service, with a vault that holds the tokens."""
    world.use_vault()
    world.compile_policy()
    return world


def item_of(refund: Refund) -> Item:
    return Item(refund.recipient, refund.amount, refund.memo)


def transfer(item: Item) -> Log:
    words = (encode(("address",), (each,)) for each in (VAULT, item.recipient))
    amount = encode(("uint256",), (item.amount,))
    return Log(TOKEN, (TRANSFER_EVENT, *words), amount)


def paid(item: Item) -> Log:
    return Log(VAULT, (PAID_EVENT, item.mark.ljust(32, b"\0")), b"")


def skipped(item: Item, index: int, reason: Reason) -> Log:
    data = encode(("uint256", "uint8"), (index, reason))
    return Log(VAULT, (SKIPPED_EVENT, item.mark.ljust(32, b"\0")), data)


def logs_of(items: Sequence[Item], ends: Sequence[Reason | None]) -> list[Log]:
    """Return the events of a batch whose *items* have these *ends*."""
    logs = []
    for index, (item, end) in enumerate(zip(items, ends, strict=True)):
        if end is None:
            logs += [transfer(item), paid(item)]
        else:
            logs.append(skipped(item, index, end))
    return logs


def mine_lost(
    world: World,
    items: Sequence[Item],
    logs: Sequence[Log],
    sender: str | None = None,
    **changes: Any,
) -> str:
    """Let the chain have a final batch that the ledger does not; return its hash."""
    data = encode_pay(TOKEN, items)
    sender = sender or world.signer.address
    tx_hash = world.chain.send_foreign(sender, data, to=VAULT)

    def change(receipt: Receipt) -> Receipt:
        return replace(receipt, logs=tuple(logs), **changes)

    world.chain.mine(change)
    world.chain.mine_empty(world.network.confirmations - 1)
    return tx_hash


def recorded(world: World, refunds: Sequence[Refund]) -> list[tuple[int, str | None]]:
    """Return position and end of what is recorded for each of *refunds*."""
    memos = [each.memo for each in refunds]
    found = world.store.find_unrecorded(world.network.chain_id, memos)
    seen = [found[memo] for memo in memos if memo in found]
    assert all(each.is_authentic for each in seen)
    return [(each.position, each.item_end) for each in seen]


def _restored(
    world: World, ends: Sequence[Reason | None], **changes: Any
) -> tuple[list[Refund], str]:
    """Return queued refunds of a lost batch that ended like this, and its hash."""
    refunds = [world.accepted() for _ in ends]
    items = [item_of(each) for each in refunds]
    tx_hash = mine_lost(world, items, logs_of(items, ends), **changes)
    world.reconcile()
    assert world.wallet.paused_by is Pause.RESTORED
    return refunds, tx_hash


def test_nodes_without_old_states_have_the_batch(world: World) -> None:
    """They find it by the hash that the ledger has recorded (R24)."""
    refunds, tx_hash = _restored(world, [None, None])
    assert recorded(world, refunds) == [(0, PAID), (1, PAID)]
    world.state_marks()
    world.chain.is_pruned = True
    for each in refunds:
        world.cancel(each)  # It is too late.

    ended = world.finish(*refunds)

    assert {(each.status, each.tx_hash, each.nonce) for each in ended} == {
        (Status.CONFIRMED, tx_hash, 0)
    }
    assert len(world.chain.payouts()) == 2
    assert world.wallet.paused_by is None


@pytest.mark.parametrize("cancels", [False, True], ids=["paid", "cancelled"])
@pytest.mark.parametrize(
    ("has_key", "error"), [(False, StaleStateError), (True, RowNotAuthenticError)]
)
def test_a_batch_that_cannot_be_adopted_holds_up_no_other_refund(
    world: World, error: type[Exception], *, has_key: bool, cancels: bool
) -> None:
    """Its key is not in the ring, or its rows were changed; its refunds wait (R24)."""
    lost, later = [world.accepted(), world.accepted()], world.accepted()
    items, own = [item_of(each) for each in lost], world.signer.address
    sender = own if has_key else SECOND.address
    mine_lost(world, items, logs_of(items, [None, None]), sender)
    tx_hash = mine_lost(world, [item_of(later)], logs_of([item_of(later)], [None]))
    for each in {sender, own}:
        world.wallets.reconcile_former(world.chains["local"], each)
    world.state_marks()
    world.reconcile()
    if has_key:
        forge(world.store, FORGED)
    moving = [*lost, later, world.accepted()]
    if cancels:
        for refund in moving:
            world.service.request_cancellation("gateway", refund.id, ACTOR)

    outcomes = world.lifecycle.step_all([world.stored(each) for each in moving])

    assert [type(each) for each in outcomes[:2]] == [error] * 2
    after = [world.stored(each) for each in moving]
    assert [each.status for each in after] == [
        *[Status.QUEUED] * 2,
        Status.MINED,
        Status.CANCELLED if cancels else Status.RESERVED,
    ]
    assert after[2].tx_hash == tx_hash


def test_a_batch_with_another_refund_is_not_adopted(world: World) -> None:
    """Each refund that the ledger has ends alone (R24)."""
    known = world.accepted()
    forgotten = replace(known, reference="forgotten")
    items = [item_of(known), item_of(forgotten)]
    mine_lost(world, items, logs_of(items, [Reason.REVERTED, None]))
    world.reconcile()
    world.state_marks()

    (ended,) = world.finish(known)

    assert (ended.status, ended.failure_code) == (Status.REFUSED, "reverted")


@pytest.mark.parametrize("what", ["another amount", "forgotten by the nodes"])
def test_a_batch_that_cannot_be_compared_is_not_adopted(
    world: World, what: str
) -> None:
    """Its refund is not paid again, and people see why (R24)."""
    refund = world.accepted()
    paid_amount = refund.amount - (what == "another amount")
    item = replace(item_of(refund), amount=paid_amount)
    mine_lost(world, [item], logs_of([item], [None]))
    world.reconcile()
    world.state_marks()
    if what != "another amount":
        forgotten = altered_chain(world.chain, find_transaction=lambda *_: None)
        world.client = forgotten

    (ended,) = world.finish(refund)

    assert (ended.status, ended.failure_code) == (Status.REFUSED, "already-paid")


@pytest.mark.parametrize("reason", [Reason.ABOVE_DAY_CAP, Reason.NOT_WITHIN_ITEM_CAP])
def test_an_item_above_a_cap_is_paid_once(world: World, reason: Reason) -> None:
    """The vault skipped it, so the refund is paid now (R24)."""
    (paid_one, capped), _ = _restored(world, [None, reason])
    assert recorded(world, [paid_one, capped]) == [(0, PAID)]
    world.state_marks()

    first, second = world.finish(paid_one, capped)

    assert (first.status, first.nonce) == (Status.CONFIRMED, 0)
    assert (second.status, second.nonce) == (Status.CONFIRMED, 1)
    assert len(world.chain.payouts()) == 2


@pytest.mark.parametrize("reason", [Reason.NO_CODE, Reason.REVERTED, Reason.NOT_TRUE])
def test_an_item_that_was_skipped_for_good_fails_again(
    world: World, reason: Reason
) -> None:
    """As before the restore: its gateway may have paid it elsewhere (R24)."""
    refunds, tx_hash = _restored(world, [reason, None])
    assert recorded(world, refunds) == [(0, "reverted"), (1, PAID)]
    world.state_marks()

    first, second = world.finish(*refunds)

    assert (first.status, first.failure_code) == (Status.FAILED, "reverted")
    assert first.tx_hash == second.tx_hash == tx_hash
    assert second.status is Status.CONFIRMED
    assert len(world.chain.payouts()) == 1


def test_a_batch_that_reverted_has_paid_nothing(world: World) -> None:
    """All of its refunds are paid now (R24)."""
    refunds, _ = _restored(world, [None, None], succeeded=False)
    assert recorded(world, refunds) == []
    world.state_marks()

    ended = world.finish(*refunds)

    assert [each.status for each in ended] == [Status.CONFIRMED] * 2
    assert len(world.chain.payouts()) == 2


def test_a_refund_that_is_requested_again_after_its_batch(world: World) -> None:
    """The ledger never had it, beside others of the batch that it had (R24)."""
    known = world.accepted()
    forgotten = replace(known, reference="forgotten")
    items = [item_of(known), item_of(forgotten)]
    mine_lost(world, items, logs_of(items, [None, None]))
    world.reconcile()
    world.state_marks()
    (first,) = world.finish(known)
    again = world.accepted(reference="forgotten")

    (second,) = world.finish(again)

    assert [first.failure_code, second.failure_code] == ["already-paid"] * 2
    assert len(world.chain.payouts()) == 2


LIES: dict[str, Callable[[Item], list[Log]]] = {
    "paid without a transfer": lambda item: [paid(item)],
    "skipped with a transfer": lambda item: [
        transfer(item),
        skipped(item, 0, Reason.ABOVE_DAY_CAP),
    ],
    "no event": lambda item: [],
    "another event": lambda item: [skipped(item, 1, Reason.ABOVE_DAY_CAP)],
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_events_that_contradict_each_other_pay_nothing_again(
    world: World, lie: Callable[[Item], list[Log]]
) -> None:
    """People must decide; the refund neither waits nor is paid (R24)."""
    refund = world.accepted()
    mine_lost(world, [item_of(refund)], lie(item_of(refund)))
    world.reconcile()
    assert recorded(world, [refund]) == [(0, "transfer-mismatch")]
    world.state_marks()

    (ended,) = world.finish(refund)

    assert (ended.status, ended.failure_code) == (Status.FAILED, "transfer-mismatch")


def test_a_batch_without_a_receipt_is_not_recorded(world: World) -> None:
    """Nor with one of another block: the wallet stays paused until then (R24)."""
    refund = world.accepted()
    mine_lost(world, [item_of(refund)], logs_of([item_of(refund)], [None]))
    receipts = world.chain.receipts

    for answer in (
        lambda _: {},
        lambda hashes: {
            tx_hash: replace(each, block=replace(each.block, hash="0x" + "f" * 64))
            for tx_hash, each in receipts(hashes).items()
        },
    ):
        world.client = altered_chain(world.chain, receipts=answer)
        with pytest.raises(ChainUnavailableError):
            world.reconcile()
        assert recorded(world, [refund]) == []
        assert world.wallet.is_paused


@pytest.mark.parametrize("forged", ["contract", "token"])
def test_another_contract_has_paid_nothing(world: World, forged: str) -> None:
    """It can emit the events of a vault and of a token, with any mark."""
    item = item_of(world.accepted())
    if forged == "contract":
        del world.chain.codes[VAULT]
    else:
        tokens = {"TUSD": world.network.tokens["TUSD"]}
        tokens["TUSD"] = tokens["TUSD"].model_copy(update={"address": VAULT})
        world.network = world.network.model_copy(update={"tokens": tokens})
    tx_hash = mine_lost(world, [item], logs_of([item], [None]))
    chain = world.chains["local"]
    mined = chain.client.find_transaction(world.signer.address, 0)

    assert mined is not None
    assert mined.tx_hash == tx_hash
    assert not read_lost_items(mined, chain)


def test_a_call_without_items_is_foreign(world: World) -> None:
    """This service signs none."""
    mine_lost(world, [], [])

    status = world.reconcile()

    (foreign,) = status.foreign
    assert (foreign.memo, foreign.position, foreign.item_end) == (None, 0, None)


def test_an_item_without_a_payment_has_the_memo_of_a_noop(world: World) -> None:
    refunds, _ = _restored(world, [Reason.ABOVE_DAY_CAP, None])

    found = world.store.find_unrecorded(world.network.chain_id, [NOOP_MEMO])

    assert found[NOOP_MEMO].position == 0
    assert not recorded(world, refunds[:1])


@pytest.mark.parametrize("steps", [1, 3])
def test_a_lost_batch_has_the_nonce_of_another_one(
    vault_world: World, steps: int
) -> None:
    """What it paid ends as paid, and is not to be paid elsewhere (R24); others wait."""
    world = vault_world
    paid_one, capped, other = (world.accepted() for _ in range(3))
    world.clock.now += CLAIM_TIME
    world.worker.advance() if steps > 1 else world.step(paid_one)
    held = world.found(0)
    assert held.payment_ids == tuple(each.id for each in held.payments)
    world.chain.forget()
    items = [item_of(paid_one), item_of(capped)]
    world.chain.vaults.clear()
    tx_hash = mine_lost(world, items, logs_of(items, [None, Reason.ABOVE_DAY_CAP]))

    world.work(after=timedelta(seconds=31))
    ended = [world.stored(each) for each in held.payments]

    assert [(each.status, each.failure_code) for each in ended] == [
        (Status.FAILED, "already-paid"),
        *[(Status.QUEUED, None)] * (len(ended) - 1),
    ]
    assert tx_hash in str(ended[0].failure_detail)
    assert other.id


@pytest.mark.parametrize("kind", ["paid", "skipped", "memo"])
def test_a_thief_at_the_nonce_of_a_batch_pauses_the_wallet(
    vault_world: World, kind: str
) -> None:
    """He may write any mark, so it is no evidence that this service signed it."""
    world = vault_world
    refund = world.accepted()
    world.work()
    amount = 10**14 if kind == "skipped" else 1
    item = Item(refund.recipient, amount, b"x" * 16)
    data = encode_pay(TOKEN, [item])
    if kind == "memo":
        data = encode_transfer(item.recipient, amount, item.mark)
    to = TOKEN if kind == "memo" else VAULT
    world.chain.mine_foreign(world.signer.address, data, to)
    world.chain.mine_empty(5)

    world.work(after=timedelta(seconds=31))

    assert world.stored(refund).status is Status.QUEUED
    assert world.wallet.paused_by is Pause.RESTORED


def test_a_payment_counts_before_another_batch_that_skipped_it(world: World) -> None:
    """Also if the skipped item has the lower nonce."""
    refund = world.accepted()
    for reason in (Reason.REVERTED, None):
        items = [item_of(refund)]
        mine_lost(world, items, logs_of(items, [reason]))
    world.reconcile()

    assert recorded(world, [refund]) == [(0, PAID)]


def _payouts(world: World) -> Counter[int]:
    """Return how often each amount is paid: by a lost batch, and after the restore."""
    refunds = [world.accepted(amount=amount) for amount in ("1", "2", "3", "4")]
    # The ledger does not have the last one, so it recognises the others one by one.
    forgotten = replace(refunds[0], reference="forgotten")
    items = [item_of(each) for each in (*refunds, forgotten)]
    ends = [None, Reason.ABOVE_DAY_CAP, None, Reason.REVERTED, Reason.REVERTED]
    mine_lost(world, items, logs_of(items, ends))
    world.reconcile()
    world.state_marks()
    world.finish(*refunds)
    return Counter(amount // 10**6 for _, amount in world.chain.payouts())


PLANTED: dict[str, tuple[object, str, Callable[..., object]]] = {
    "what was skipped counts as paid": (
        wallet_reconciliation,
        "_as_lost",
        lambda mark, _: (mark, PAID),
    ),
    "what was paid counts as skipped": (
        wallet_reconciliation,
        "_as_lost",
        lambda *_: (NOOP_MEMO, None),
    ),
    "the first mark is recognised alone": (
        wallet_reconciliation,
        "read_lost_items",
        lambda mined, chain: read_lost_items(mined, chain)[:1],
    ),
}


@pytest.mark.parametrize("bug", [None, *PLANTED])
def test_what_a_lost_batch_skipped_below_a_cap_is_paid_and_nothing_twice(
    world: World, bug: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each planted bug pays a refund twice or never (R24)."""
    if bug is not None:
        monkeypatch.setattr(*PLANTED[bug])

    assert (_payouts(world) == {1: 1, 2: 1, 3: 1}) is (bug is None)
