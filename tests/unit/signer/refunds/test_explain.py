"""Explanations of refunds: the facts, the summary and the next step."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from signer.errors import (
    ChainUnavailableError,
    HotWalletError,
    KeyUnusableError,
    StoreUnavailableError,
)
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


def test_a_queued_refund_whose_wallet_is_fine(world: World) -> None:
    """The wallet that will pay it is reported, and what each node reports."""
    world.broadcast()

    found = _explain(world, world.accepted())

    (node,) = found.nodes
    assert (node.counted, node.pending, node.transactions) == (0, 1, {})
    assert found.summary == "It has no nonce yet."
    assert found.wallet_status is not None
    assert found.wallet_status.wallet.sender == world.signer.address


def test_a_reserved_refund(world: World) -> None:
    """It has a nonce, and lower nonces are listed."""
    first, second = world.broadcast(), world.step(world.accepted())

    found = _explain(world, second)

    assert found.summary == "It has nonce 1 and is not signed yet."
    assert found.next_step == "A worker signs it."
    assert [each.payment for each in found.ahead] == [world.stored(first)]
    assert found.fees is None


def test_a_signed_refund(world: World) -> None:
    """Its transaction is stored, and no node has it."""
    refund = world.step(world.accepted(), times=2)

    found = _explain(world, refund)

    assert found.summary == "It is signed and no node has accepted it yet."
    assert found.next_step == "A worker broadcasts it."
    assert found.transactions == world.store.transactions(refund.id)
    (node,) = found.nodes
    assert dict(node.transactions) == {refund.tx_hash: "unknown"}
    assert (node.counted, node.pending) == (0, 0)


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


def test_a_queued_refund_on_a_stopped_network(world: World) -> None:
    """The summary says since when, before any other reason (R27)."""
    refund = world.accepted()
    stopped_at = world.clock()
    stopped(world.store, at=stopped_at)

    found = _explain(world, refund)

    assert found.stopped_at == stopped_at
    assert found.summary == (
        "It gets no nonce: signing was stopped at 2026-01-02T03:04:05+00:00."
    )


def test_a_broadcast_refund_behind_another(world: World) -> None:
    """The first lower nonce is named with its refund's id and status."""
    first, _, last = world.broadcast(), world.broadcast(), world.broadcast()

    found = _explain(world, last)

    assert found.summary == (
        f"Its nonce 2 waits for nonce 0 of refund {first.id} (broadcast)."
    )
    assert [refund.nonce for refund in found.ahead] == [0, 1]


def test_a_broadcast_refund_behind_a_filler(world: World) -> None:
    """The filler pays no refund, and is named with its nonce all the same."""
    world.ring.active()
    world.wallets.get_or_open(world.chains["local"], world.signer.address, 0)
    filler, refund = world.fill(0), world.broadcast()

    found = _explain(world, refund)

    assert found.ahead == (filler,)
    assert found.visible_id(filler) is None
    assert found.summary == "Its nonce 1 waits for nonce 0 of a filler (reserved)."


def test_a_long_queue_is_cut_short(world: World) -> None:
    """At most five lower nonces are listed."""
    refunds = [world.step(world.accepted()) for _ in range(8)]

    found = _explain(world, refunds[-1])

    assert [refund.nonce for refund in found.ahead] == [0, 1, 2, 3, 4]


def test_a_broadcast_refund_at_the_cap(world: World) -> None:
    """The next step says that the cap prevents higher fees (R17)."""
    world.chain.answers = Fees(240 * GWEI, 10 * GWEI)
    refund = world.broadcast()

    found = _explain(world, refund)

    assert found.fees is not None
    assert found.fees.required is None
    assert found.next_step == (
        "A worker broadcasts the same bytes again; higher fees would exceed the cap of"
        " 500 gwei."
    )


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
    ("prepare", "summary"),
    [
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


def test_the_summary_of_a_refund_that_was_paid_before_a_restore(world: World) -> None:
    """It does not say that nothing was paid."""
    found = _explain(world, _refused(world))
    detail = "transaction 0x1 has already paid it"
    paid = replace(found.refund, failure_code="already-paid", failure_detail=detail)

    summary = replace(found, refund=paid).summary

    assert summary == f"It ended without a nonce: {detail}."


def test_a_broadcast_refund_whose_node_is_unreachable(world: World) -> None:
    """The node is reported with its error and not counted."""
    refund = world.broadcast()
    world.chain.fail("views", ChainUnavailableError("gone"))

    found = _explain(world, refund)

    assert found.nodes[0].error == "chain-unavailable"
    assert found.summary == "0 of 1 nodes have it, and it waits to be mined."


def test_a_mined_refund_whose_node_is_unreachable(world: World) -> None:
    """The ledger's block is reported without the head."""
    refund = _unrecorded(world)
    world.confirmation_tracker.track()
    world.chain.fail("latest_block", ChainUnavailableError("gone"))

    found = _explain(world, refund)

    assert found.summary == "It is in block 1."
    assert found.unanswered == {"head": "chain-unavailable"}


def test_a_mined_refund(world: World) -> None:
    """The summary has its confirmations; only the chain knows when it is final."""
    refund = world.broadcast()
    world.chain.mine()
    world.confirmation_tracker.track()
    world.chain.mine_empty(1)

    found = _explain(world, refund)

    assert found.summary == "It is in block 1, with 2 of 3 confirmations."
    assert found.next_step == "It is confirmed when its block is deep enough."
    assert found.next_at is None
    assert found.fees is None


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


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        ("insufficient-funds", ADVICE["insufficient-funds"]),
        ("chain-unavailable", "nothing; the service tries again"),
    ],
)
def test_advice_by_error_code(world: World, code: str, advice: str) -> None:
    """Errors that an operator can fix have advice; the others are retried."""
    refund = world.accepted()
    blocked = replace(refund, version=1, attempts=7, blocked_by=code)
    save(world.store, refund, blocked)

    found = _explain(world, refund)

    assert found.summary == (
        f"It has no nonce yet; the last 7 attempts failed, most recently with {code}."
    )
    assert found.next_step == f"To do: {advice}."


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
    operators = world.explainer.explain(stored).next_step

    assert mine.startswith(
        "To do: ask the operator"
        if code == "tenant-blocked"
        else "To do: nothing; the service tries again."
        if code in _WITHOUT_OPERATOR
        else "To do: nothing; an operator of the service must act"
    )
    assert "`" not in mine
    assert (
        operators == f"To do: {ADVICE.get(code, 'nothing; the service tries again')}."
    )


def test_the_advice_of_tenants_is_for_codes_with_advice() -> None:
    assert TENANT_ADVICE.keys() <= ADVICE.keys()


def test_advice_is_for_errors_that_exist() -> None:
    """Every code with advice belongs to an error class."""
    codes, found = set(), [HotWalletError]
    while found:
        error = found.pop()
        codes.add(error.code)
        found += error.__subclasses__()

    assert set(ADVICE) <= codes


def test_current_rules_are_reported(world: World) -> None:
    """A refund that would not be accepted today has the objection, and continues."""
    refund = world.broadcast()
    world.change_token(max_amount="1")

    assert _explain(world, refund).policy == "one refund may pay at most 1 TUSD"


def test_a_network_that_was_removed(world: World) -> None:
    """The ledger's facts are reported, and the objection names the network."""
    refund = world.broadcast()

    found = Explainer(world.store, world.store, {}, world.clock, world.tenants).explain(
        refund
    )

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


def test_a_broadcast_refund_without_transactions(world: World) -> None:
    """An adopted refund whose block was removed has no fees to compare."""
    refund = world.broadcast()

    world.store = altered(world.store, transactions=lambda refund_id: ())

    found = _explain(world, refund)

    assert (found.fees, found.transactions) == (None, ())
    assert found.next_step == "A worker broadcasts the same bytes again."


def test_an_unreachable_ledger_is_an_error(world: World) -> None:
    """Nothing is known without the ledger."""
    refund = world.accepted()
    with pytest.raises(StoreUnavailableError):
        Explainer(
            altered(world.store, transactions=StoreUnavailableError("gone")),
            world.store,
            world.chains,
            world.clock,
            world.tenants,
        ).explain(refund)


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
