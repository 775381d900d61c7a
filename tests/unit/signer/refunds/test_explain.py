"""Explanations of refunds: the facts, the summary and the next step."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from signer.errors import ChainUnavailableError, HotWalletError, KeyUnusableError
from signer.model.refund import Refund, Status
from signer.model.wallet import Pause
from signer.ports.chain import Fees
from signer.refunds.explanation import (
    ADVICE,
    REVOKED_KEY_ADVICE,
    TENANT_ADVICE,
    Explainer,
    Explanation,
    FeeStatus,
)
from tests.fixtures.batches import VAULT
from tests.fixtures.ledger import save, stopped
from tests.fixtures.scripted_chain import TOKEN
from tests.fixtures.scripted_vault import ScriptedVault
from tests.support.refunds import World, altered


GWEI = 10**9


def _explain(world: World, refund: Refund) -> Explanation:
    return world.explainer.explain(world.stored(refund))


def test_a_queued_refund(world: World) -> None:
    """It has no nonce, wallet or transaction; a worker claims it when due."""
    refund = world.accepted()

    found = _explain(world, refund)

    assert found.refund == refund
    assert found.summary == "It has no nonce yet."
    assert found.next_step == "A worker simulates it and assigns its nonce."
    assert found.next_at == refund.moving.due_at < world.clock()  # It is due.
    assert found.policy is None
    assert [move.status for move in found.history] == [Status.QUEUED]
    assert (found.transactions, found.nodes, found.ahead) == ((), (), ())
    assert (found.wallet_status, found.fees) == (None, None)
    assert (found.head, found.confirmations) == (0, 3)
    assert found.unanswered == {}


def test_a_refund_in_a_batch(world: World) -> None:
    """Operators read how many refunds its transaction pays."""
    own = {world.signer.address}
    world.chain.vaults[VAULT] = ScriptedVault(VAULT, TOKEN, own)
    world.network = world.network.model_copy(update={"vault": VAULT})
    world.compile_policy()
    refunds = [world.accepted() for _ in range(3)]
    world.work()

    found = [_explain(world, each) for each in refunds]

    assert [each.batch for each in found] == [3, 3, 3]
    assert {each.summary for each in found} == {
        "1 of 1 nodes have it, and it waits to be mined, in a batch of 3."
    }
    as_tenant = world.explainer.explain(world.stored(refunds[0]), for_tenant=True)
    assert as_tenant.batch is None


def test_a_queued_refund_in_a_paused_wallet(world: World) -> None:
    """The summary names the reason of the pause."""
    world.broadcast()
    world.chain.mine()
    world.chain.mine_foreign(world.signer.address)
    refund = world.accepted()
    world.work()
    world.work(after=timedelta(seconds=2))

    found = _explain(world, refund)

    assert found.summary == (
        "It gets no nonce: the wallet is paused (chain-ahead); the last 2 attempts"
        " failed, most recently with wallet-paused."
    )
    assert found.next_step == f"To do: {ADVICE['wallet-paused']}."
    assert found.wallet_status is not None
    assert found.wallet_status.wallet.paused_by is Pause.CHAIN_AHEAD
    assert (found.wallet_status.chain_nonce, found.wallet_status.unknown_count) == (
        2,
        1,
    )


@pytest.mark.parametrize("block", [False, True], ids=["disabled", "revoked"])
def test_a_refund_whose_key_does_not_sign(world: World, block: bool) -> None:
    """The advice for a revoked key is not to enable it (O8)."""
    refund = world.broadcast()
    world.rotate(block=block)
    world.lifecycle.postpone([(world.found(0), KeyUnusableError("disabled"))])

    found = _explain(world, refund)

    advice = REVOKED_KEY_ADVICE if block else ADVICE["key-unusable"]
    assert found.is_key_revoked is block
    assert found.next_step == f"To do: {advice}."


def test_a_broadcast_refund(world: World) -> None:
    """What each node has, the offered fees, and when they are raised."""
    refund = world.broadcast()
    later = world.clock() + timedelta(seconds=90)

    found = _explain(world, refund)

    assert found.summary == "1 of 1 nodes have it, and it waits to be mined."
    assert found.next_step == (
        "A worker broadcasts the same bytes again; from 2026-01-02T03:05:35+00:00 on,"
        " with higher fees."
    )
    assert found.next_at == refund.moving.due_at
    assert found.fees == FeeStatus(
        max_fee=2_100_000_000,
        priority_fee=10**8,
        base_fee=GWEI,
        required=(2_362_500_000, 112_500_000),
        cap=500 * GWEI,
        raise_at=later,
    )
    assert dict(found.nodes[0].transactions) == {refund.tx_hash: "pending"}


def test_a_long_queue_is_cut_short(world: World) -> None:
    """At most five lower nonces are listed; the first has its refund's id."""
    refunds = [world.broadcast() for _ in range(8)]

    found = _explain(world, refunds[-1])

    assert [refund.nonce for refund in found.ahead] == [0, 1, 2, 3, 4]
    assert found.ahead[0].payment == refunds[0]
    assert found.summary == (
        f"Its nonce 7 waits for nonce 0 of refund {refunds[0].id} (broadcast)."
    )


def _reserved(world: World) -> Refund:
    world.broadcast()
    return world.step(world.accepted())


def _signed(world: World) -> Refund:
    return world.step(world.accepted(), times=2)


def _stopped(world: World) -> Refund:
    refund = world.accepted()
    stopped(world.store, at=world.clock())
    return refund


def _behind_a_filler(world: World) -> Refund:
    world.ring.active()
    world.wallets.get_or_open(world.chains["local"], world.signer.address, 0)
    world.fill(0)
    return world.broadcast()


def _at_the_cap(world: World) -> Refund:
    world.chain.answers = Fees(240 * GWEI, 10 * GWEI)
    return world.broadcast()


def _mined(world: World) -> Refund:
    refund = _unrecorded(world)
    world.confirmation_tracker.track()
    world.chain.mine_empty(1)
    return refund


def _without_transactions(world: World) -> Refund:
    """An adopted refund whose block was removed has no fees to compare."""
    refund = world.broadcast()
    world.store = altered(world.store, transactions=lambda refund_id: ())
    return refund


def _refused(world: World) -> Refund:
    world.chain.revert = "Pausable: paused"
    return world.step(world.accepted())


def _cancelled(world: World) -> Refund:
    return world.cancel(world.accepted())


def _dropped(world: World) -> Refund:
    refund = world.broadcast()
    world.chain.forget()
    return refund


def _with_replacement(world: World) -> Refund:
    refund = world.broadcast()
    world.clock.advance(seconds=world.network.stuck_after_seconds)
    return world.step(refund, times=2)  # The node drops the original.


def _priced_out(world: World) -> Refund:
    refund = world.broadcast()
    world.chain.answers = Fees(2_500_000_000, 10**8)
    return refund


def _without_base_fee(world: World) -> Refund:
    refund = world.broadcast()
    world.chain.answers = Fees(None, GWEI)
    return refund


def _unrecorded(world: World) -> Refund:
    refund = world.broadcast()
    world.chain.mine()
    return refund


def _not_finalized(world: World) -> Refund:
    world.network = world.network.model_copy(update={"finality": "finalized"})
    refund = world.broadcast()
    world.chain.mine()
    world.confirmation_tracker.track()
    return refund


def _mined_after_the_head(world: World) -> Refund:
    refund = world.broadcast()
    world.chain.mine_empty(2)
    world.chain.mine()
    world.confirmation_tracker.track()
    world.chain.lag = 3
    return refund


def _failed(world: World) -> Refund:
    refund = world.broadcast()
    world.chain.mine(lambda receipt: replace(receipt, succeeded=False))
    world.settle()
    return refund


@pytest.mark.parametrize(
    ("prepare", "summary", "next_step"),
    [
        (_reserved, "It has nonce 1 and is not signed yet.", "A worker signs it."),
        (
            _signed,
            "It is signed and no node has accepted it yet.",
            "A worker broadcasts it.",
        ),
        (
            _at_the_cap,
            "1 of 1 nodes have it, and it waits to be mined.",
            (
                "A worker broadcasts the same bytes again; higher fees would exceed"
                " the cap of 500 gwei."
            ),
        ),
        (
            _without_transactions,
            "0 of 1 nodes have it, and it waits to be mined.",
            "A worker broadcasts the same bytes again.",
        ),
        (
            _mined,
            "It is in block 1, with 2 of 3 confirmations.",
            "It is confirmed when its block is deep enough.",
        ),
    ],
)
def test_summaries_and_next_steps(
    world: World, prepare: Callable[[World], Refund], summary: str, next_step: str
) -> None:
    found = _explain(world, prepare(world))

    assert (found.summary, found.next_step) == (summary, next_step)
    assert found.fees is None or found.fees.required is None


@pytest.mark.parametrize(
    ("prepare", "summary"),
    [
        (
            _stopped,
            "It gets no nonce: signing was stopped at 2026-01-02T03:04:05+00:00.",
        ),
        (_behind_a_filler, "Its nonce 1 waits for nonce 0 of a filler (reserved)."),
        (_refused, "It ended without a nonce: Pausable: paused."),
        (_cancelled, "It was cancelled before it had a nonce."),
        (_dropped, "0 of 1 nodes have it, and it waits to be mined."),
        (_with_replacement, "1 of 1 nodes have it, and it waits to be mined."),
        (_priced_out, "It offers at most 2.1 gwei per gas, and the base fee is 2.5."),
        (_without_base_fee, "1 of 1 nodes have it, and it waits to be mined."),
        (
            _unrecorded,
            "1 of 1 nodes have it in a block, which no worker has recorded yet.",
        ),
        (
            _not_finalized,
            (
                "It is in block 1, with 1 of 3 confirmations, and waits until the nodes"
                " call the block finalized."
            ),
        ),
        (_mined_after_the_head, "It is in block 3, with 0 of 3 confirmations."),
        (
            _failed,
            "Its nonce is used, and did not pay it: the token reverted on chain.",
        ),
    ],
)
def test_summaries(
    world: World, prepare: Callable[[World], Refund], summary: str
) -> None:
    """The summary has what nodes and ledger report; a depth is never negative."""
    assert _explain(world, prepare(world)).summary == summary


def test_a_mined_refund_whose_node_is_unreachable(world: World) -> None:
    """The ledger's block is reported without the head."""
    refund = _unrecorded(world)
    world.confirmation_tracker.track()
    world.chain.fail("latest_block", ChainUnavailableError("gone"))

    found = _explain(world, refund)

    assert found.summary == "It is in block 1."
    assert found.unanswered == {"head": "chain-unavailable"}


def test_a_confirmed_refund(world: World) -> None:
    """It is final, and no node gets a request."""
    refund = world.paid()
    world.chain.calls.clear()

    found = _explain(world, refund)

    assert found.summary == "It was paid in block 1."
    assert found.next_step == "Nothing."
    assert found.next_at is None
    assert found.ahead == ()
    assert len(found.history) == 6
    assert world.chain.calls == {}


_WITHOUT_OPERATOR = {
    "chain-unavailable",
    "fees-above-recent",
    "limit-reached",
    "too-many-in-flight",
    "vault-limit",
}


@pytest.mark.parametrize("code", [*ADVICE, "chain-unavailable"])
def test_a_tenant_gets_no_commands(world: World, code: str) -> None:
    """It learns whether it must do something; operators get their advice."""
    refund = world.accepted()
    save(world.store, refund, replace(refund, version=1, attempts=7, blocked_by=code))
    stored = world.stored(refund)
    mine = world.explainer.explain(stored, for_tenant=True).next_step
    explained = world.explainer.explain(stored)

    assert mine.startswith(
        "To do: ask the operator"
        if code == "tenant-blocked"
        else "To do: nothing; the service tries again."
        if code in _WITHOUT_OPERATOR
        else "To do: nothing; an operator of the service must act"
    )
    assert "`" not in mine
    advice = ADVICE.get(code, "nothing; the service tries again")
    assert explained.next_step == f"To do: {advice}."
    assert explained.summary.endswith(
        f"; the last 7 attempts failed, most recently with {code}."
    )


def test_advice_is_for_errors_that_exist() -> None:
    codes, found = set(), [HotWalletError]
    while found:
        error = found.pop()
        codes.add(error.code)
        found += error.__subclasses__()

    assert TENANT_ADVICE.keys() <= ADVICE.keys() <= codes


def test_a_network_that_was_removed(world: World) -> None:
    """The ledger's facts are reported, and the objection names the network."""
    refund = world.broadcast()

    explainer = Explainer(world.store, {}, world.clock, world.tenants)
    found = explainer.explain(refund)

    assert found.policy == "the network is not configured"
    assert (found.head, found.wallet_status, found.nodes) == (None, None, ())
    assert found.summary == "0 of 0 nodes have it, and it waits to be mined."
    assert found.next_step == "A worker broadcasts the same bytes again."


@pytest.mark.parametrize(
    ("method", "name"),
    [("pending_count", "wallet"), ("latest_block", "head"), ("fees", "fees")],
)
def test_unanswered_questions_are_listed(world: World, method: str, name: str) -> None:
    """A question without an answer does not hide the other answers."""
    refund = world.broadcast()
    world.chain.fail(method, ChainUnavailableError("https://u:p@node"))

    found = _explain(world, refund)

    assert found.unanswered == {name: "chain-unavailable"}
    assert [found.wallet_status is None, found.head is None, found.fees is None] == [
        name == "wallet",
        name == "head",
        name == "fees",
    ]
    assert "u:p" not in str(found)


def test_frozen_nodes_are_asked_once(world: World) -> None:
    """Each further question would take another timeout."""
    refund = world.broadcast()
    down = ChainUnavailableError("the node did not respond in time")
    world.chain.fail("views", down)
    before = world.chain.calls.total()

    found = _explain(world, refund)

    assert found.unanswered == dict.fromkeys(
        ("wallet", "head", "fees"), "chain-unavailable"
    )
    assert world.chain.calls.total() == before + 1
    assert found.nodes[0].error == "chain-unavailable"
    assert found.summary == "0 of 1 nodes have it, and it waits to be mined."


def test_explaining_changes_nothing(world: World) -> None:
    """Ledger and nodes are only read."""
    world.broadcast()
    world.chain.mine_foreign(world.signer.address)
    world.chain.mine_foreign(world.signer.address)
    refund = world.accepted()
    before = world.store.wallets()

    _explain(world, refund)

    assert world.stored(refund) == refund
    assert world.store.wallets() == before
    assert world.chain.calls["broadcast"] == 1
