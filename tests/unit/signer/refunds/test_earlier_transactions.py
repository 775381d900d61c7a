"""Before a payment gets another nonce, the chain shows that no earlier one paid it."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
from eth_account import Account

from backends.sql import SQLStore
from signer.chain.erc20 import encode_transfer
from signer.chain.vault import Item, encode_pay
from signer.errors import ChainError, RowNotAuthenticError
from signer.model.refund import Refund
from signer.model.transaction import (
    Kind,
    SignedTransaction,
    Transaction,
    TransactionStatus,
)
from signer.ports.chain import Receipt
from signer.refunds import nonce_checks
from tests.fixtures.batches import BLOCK, CAPPED, VAULT, batch_of
from tests.fixtures.ledger import forge, save
from tests.fixtures.scripted_chain import CHAIN_ID, TOKEN, Sent
from tests.fixtures.scripted_vault import ScriptedVault
from tests.support.audit import overruled
from tests.support.refunds import AMOUNT, KEY, SECOND, World


Logs = Callable[[Receipt], Receipt]

OTHER_KEY = (99).to_bytes(32, "big")


def _data(*refunds: Refund) -> bytes:
    return encode_pay(
        TOKEN, [Item(each.recipient, each.amount, each.memo) for each in refunds]
    )


def _sign(
    data: bytes, nonce: int = 0, key: bytes = KEY.secret, to: str = VAULT
) -> Sent:
    fields = {
        "chainId": CHAIN_ID,
        "nonce": nonce,
        "to": to,
        "data": data,
        "gas": 500_000,
        "maxFeePerGas": 2 * 10**9,
        "maxPriorityFeePerGas": 10**9,
    }
    return Sent.read(bytes(Account.sign_transaction(fields, key).raw_transaction))


def _attempt(world: World, sent: Sent, number: int = 0) -> SignedTransaction:
    return SignedTransaction(
        sent.hash,
        number,
        Kind.TRANSFER,
        CHAIN_ID,
        world.signer.address,
        sent.nonce,
        sent.max_fee_per_gas,
        sent.max_priority_fee_per_gas,
        sent.gas_limit,
        sent.raw,
        world.clock(),
    )


@pytest.fixture
def world(world: World) -> World:
    """Return a process of the service.  On a day its vault pays one refund."""
    own = {world.signer.address}
    world.chain.vaults[VAULT] = ScriptedVault(VAULT, TOKEN, own, per_day=AMOUNT)
    assert world.ring
    world.nonces.wallets.get_or_open(world.chains["local"], world.signer.address, 0)
    return world


@pytest.fixture
def steal(tmp_path: Path) -> Callable[[str], None]:
    """Return what executes a statement without triggers, in the only ledger."""
    return lambda statement: overruled(f"sqlite:///{tmp_path}/0.db", statement)


def _signed(world: World, batch: Transaction, sent: Sent) -> Transaction:
    attempt = _attempt(world, sent)
    after = batch.with_status(
        TransactionStatus.SIGNED, world.clock(), tx_hash=attempt.tx_hash
    )
    save(_store(world), batch, after, attempt)
    return after


def _store(world: World) -> SQLStore:
    return cast("SQLStore", world.store)


def _batch(world: World, *refunds: Refund) -> Transaction:
    return batch_of(_store(world), *refunds, sender=world.signer.address)


def _requeue(world: World, batch: Transaction) -> Sequence[Refund]:
    """Let rows say that a signed *batch* is final, and that it paid nothing."""
    for status in ("broadcast", "mined", "confirmed"):
        final = status == "confirmed"
        after = batch.with_status(
            TransactionStatus(status),
            world.clock(),
            **(BLOCK if status == "mined" else {}),
            ends=dict.fromkeys(batch.payment_ids, CAPPED) if final else None,
        )
        save(_store(world), batch, after)
        batch = after
    return [world.stored(each) for each in batch.payments]


def _queued_again(
    world: World, *, change: Logs = lambda receipt: receipt
) -> list[Refund]:
    """Return two refunds of a batch: the vault paid the first, and had no cap left."""
    world.clock.advance(seconds=1)
    refunds = [world.accepted(), world.accepted()]
    sent = _sign(_data(*refunds))
    batch = _signed(world, _batch(world, *refunds), sent)
    world.chain.broadcast(sent.raw)
    world.chain.mine(change)
    world.chain.mine_empty(2)
    world.clock.advance(seconds=1)
    return [*_requeue(world, batch)]


def _count(world: World, refund: Refund) -> int:
    return world.nonces.count_earlier(refund, world.chains["local"])


def test_a_new_refund_costs_no_question(world: World) -> None:
    refund = world.accepted()
    before = world.chain.calls.copy()

    assert _count(world, refund) == 0
    assert world.chain.calls == before


def test_a_paid_one_is_not_paid_again(world: World) -> None:
    """Whatever rows say: a program with the worker's role can write them."""
    paid, _ = _queued_again(world)

    with pytest.raises(RowNotAuthenticError, match=paid.id):
        _count(world, paid)


def test_the_chain_is_asked_once_for_a_batch(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer is final.  Few of them are kept."""
    _, capped = _queued_again(world)
    nonces, chain = world.nonces, world.chains["local"]
    nonces.count_earlier(capped, chain)
    asked = world.chain.calls.copy()

    assert nonces.count_earlier(capped, chain) == 1
    assert world.chain.calls == asked
    monkeypatch.setattr(nonce_checks, "_REMEMBERED", 0)
    fresh = world.nonces
    assert fresh.count_earlier(capped, chain) == 1


def test_a_batch_that_is_not_final_says_nothing(world: World) -> None:
    """Rows may say that it has ended."""
    world.clock.advance(seconds=1)
    refund = world.accepted()
    sent = _sign(_data(refund))
    batch = _signed(world, _batch(world, refund), sent)
    world.clock.advance(seconds=1)
    (queued,) = _requeue(world, batch)

    with pytest.raises(ChainError):
        _count(world, queued)  # It was not sent.
    world.chain.broadcast(sent.raw)
    world.chain.mine()
    for _ in range(2):
        with pytest.raises(ChainError):
            _count(world, queued)
        world.chain.mine_empty(1)
    with pytest.raises(RowNotAuthenticError):
        _count(world, queued)


def test_a_receipt_of_another_block_says_nothing(world: World) -> None:
    _, capped = _queued_again(world)
    world.chain.fork_head()

    with pytest.raises(ChainError):
        _count(world, capped)


def test_a_reverted_batch_has_paid_nothing(world: World) -> None:
    world.chain.vaults[VAULT].operators.clear()

    assert [_count(world, each) for each in _queued_again(world)] == [1, 1]


def test_a_token_that_lies_may_have_paid(world: World) -> None:
    """The vault says that it paid, and there is no event of the token."""
    vault = world.chain.vaults[VAULT]
    vault.lies.add(world.accepted().recipient)

    for each in _queued_again(world)[:1]:
        with pytest.raises(RowNotAuthenticError):
            _count(world, each)


@pytest.mark.parametrize("logs", [(), (0, 0)], ids=["none", "others"])
def test_events_that_are_not_those_of_the_items(
    world: World, logs: Sequence[int]
) -> None:
    """None of the payments is shown to be unpaid."""

    def change(receipt: Receipt) -> Receipt:
        return replace(receipt, logs=tuple(receipt.logs[each] for each in logs))

    for each in _queued_again(world, change=change):
        with pytest.raises(RowNotAuthenticError):
            _count(world, each)


def test_a_noop_has_paid_nothing(world: World) -> None:
    world.clock.advance(seconds=1)
    refund = world.accepted()
    sent = _sign(b"", to=world.signer.address)
    batch = _signed(world, _batch(world, refund), sent)
    world.chain.broadcast(sent.raw)
    world.mine_deep()
    world.clock.advance(seconds=1)

    assert [_count(world, each) for each in _requeue(world, batch)] == [1]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE attempts SET raw = x'00'",
        "UPDATE attempts SET raw = x'{other}'",
        "UPDATE attempts SET raw = x'{later}'",
        "DELETE FROM attempts",
        "DELETE FROM transactions",
    ],
)
def test_bytes_of_another_program_do_not_count(
    world: World, steal: Callable[[str], None], statement: str
) -> None:
    """The chain has the transaction with the nonce, for a while."""
    paid, capped = _queued_again(world)
    other = _sign(b"", key=OTHER_KEY, to=SECOND.address)
    later = _sign(b"", nonce=1, to=world.signer.address)
    world.chain.broadcast(later.raw)
    world.mine_deep()
    steal(statement.format(other=other.raw.hex(), later=later.raw.hex()))

    assert _count(world, capped) == 1
    with pytest.raises(RowNotAuthenticError):
        _count(world, paid)


def test_pruned_nodes_find_a_batch_by_its_hash(world: World) -> None:
    """A ledger that has adopted it has the hash, and not what was signed."""
    paid, capped = _queued_again(world)
    forge(world.store, "DELETE FROM attempts")
    world.chain.is_pruned = True

    assert _count(world, capped) == 1
    with pytest.raises(RowNotAuthenticError):
        _count(world, paid)


def test_a_plain_transfer_with_the_memo_has_paid(world: World) -> None:
    """It used the nonce of the batch."""
    world.clock.advance(seconds=1)
    refund, other = world.accepted(), world.accepted()
    data = encode_transfer(refund.recipient, refund.amount, refund.memo)
    batch = _batch(world, refund, other)
    batch = _signed(world, batch, _sign(_data(refund, other)))
    world.chain.broadcast(_sign(data, to=TOKEN).raw)
    world.mine_deep()
    world.clock.advance(seconds=1)
    paid, unpaid = _requeue(world, batch)

    assert _count(world, unpaid) == 1
    with pytest.raises(RowNotAuthenticError):
        _count(world, paid)


def test_a_receipt_may_be_late(world: World) -> None:
    _, capped = _queued_again(world)
    forge(world.store, "DELETE FROM attempts")
    world.client = _WithoutReceipts(world)  # type: ignore[assignment]

    with pytest.raises(ChainError):
        _count(world, capped)


class _WithoutReceipts:
    """The chain, whose nodes have no receipts."""

    def __init__(self, world: World) -> None:
        self._chain = world.chain

    def __getattr__(self, name: str) -> object:
        return getattr(self._chain, name)

    def receipts(self, _: Sequence[str]) -> dict[str, Receipt]:
        return {}


def test_a_membership_of_another_chain(
    world: World, steal: Callable[[str], None]
) -> None:
    """Only another program adds one."""
    _, capped = _queued_again(world)
    steal(
        f"INSERT INTO transaction_payments VALUES ('{capped.id}', 1,"
        f" '{world.signer.address}', 0, 0)"
    )

    with pytest.raises(RowNotAuthenticError):
        _count(world, capped)
