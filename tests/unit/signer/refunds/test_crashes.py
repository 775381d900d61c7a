"""
A refund is paid once, whichever call fails or kills the process.

Each call to the database, the node and the device fails in turn, before or after its
effect.  The process is killed there, or gets an error; then the gateway repeats the
request with the same key, and a new worker continues.  ``tests/crash`` kills real
processes.
"""

from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from typing import cast

from signer.errors import (
    BackendUnavailableError,
    ChainUnavailableError,
    HotWalletError,
    StoreUnavailableError,
)
from signer.model.refund import Refund, Status
from signer.model.transaction import CLAIM_TIME
from signer.ports.chain import ChainClient
from signer.ports.ledger import Ledger
from signer.refunds.nonce_admin import repair_wallets
from tests.fixtures.scripted_chain import ScriptedChain, Sent
from tests.support.devices import Device, honest, recording, signer_over
from tests.support.faults import Fault, Faulty, Killed, everywhere, fault_places
from tests.support.refunds import AMOUNT, CUSTOMER, KEY, World


CHANGES = {
    *("accept_all", "reserve_all", "save_all", "adopt", "claim"),
    *("open_wallet", "pause", "add_unrecorded", "resume", "broadcast_all"),
    *("append", "sign_digest"),
}
"""Calls that change something."""

QUESTIONS = {
    *("attempts", "in_flight", "wallet", "foreign_transactions", "find_unrecorded"),
    *("preflight", "pending_count", "transaction_count"),
    *("receipts", "latest_block", "block"),
}


def _pay(world: World) -> None:
    """Submit the refund; let it be stuck, replaced, mined, reorganised, confirmed."""
    chain = world.chain
    world.submit()
    world.work(after=2 * CLAIM_TIME)
    world.clock.advance(seconds=world.network.stuck_after_seconds)
    for event in (
        chain.forget,
        chain.mine,
        chain.rename_blocks,
        lambda: chain.mine_empty(3),
        lambda: None,
    ):
        event()
        world.worker.work()


def _find_again(world: World) -> None:
    """Restore a lost ledger, and request what it paid; use the key elsewhere."""
    chain = world.chain
    world.state_marks()
    world.submit()
    world.work()
    world.worker.work()
    chain.mine_foreign(world.signer.address)
    world.worker.work()
    chain.mine_empty(3)
    world.worker.work()
    _repair(world)


def _repair(world: World) -> None:
    list(repair_wallets(world.store, world.chains, world.clock, apply=True))


def _continue(world: World) -> Refund:
    """Submit again as the gateway does, and work until the refund is final."""
    world.clock.advance(seconds=31)
    refund = world.submit().refund
    for _ in range(8):
        if refund.status.is_final:
            break
        world.clock.advance(seconds=31)
        world.worker.work()
        world.chain.mine()
        world.chain.mine_empty(1)
        refund = world.service.get("gateway", refund.id)
    return refund


def _restore_again(world: World) -> None:
    """Repeat the command when everything is final, as an operator does."""
    world.chain.mine_empty(3)
    world.state_marks()


def _run(
    fault: Fault,
    store: Ledger,
    chain: ScriptedChain,
    scenario: Callable[[World], None],
    prepare: Callable[[World], None] = lambda world: None,
) -> Refund:
    """
    Run *scenario* with *fault*, continue without, and return the final refund.

    *prepare* is what an operator does before the service continues.
    """
    device = honest(KEY)
    audit, events = recording()
    signer = signer_over(device, audit)
    signer._backend = cast(
        "Device", Faulty(device, fault, BackendUnavailableError("gone"))
    )
    faulty = World(
        cast("Ledger", Faulty(store, fault, StoreUnavailableError("gone"))),
        chain,
        signer=signer,
        client=cast("ChainClient", Faulty(chain, fault, ChainUnavailableError("gone"))),
    )
    with suppress(Killed, HotWalletError):
        scenario(faulty)

    healthy = World(store, chain, faulty.clock, signer_over(device, audit))
    prepare(healthy)
    refund = _continue(healthy)

    assert refund.status is Status.CONFIRMED, fault.place
    assert chain.payouts() == [(CUSTOMER, AMOUNT)], fault.place
    assert refund.nonce == 0, fault.place
    intents = sum(event["event"] == "digest-sign-requested" for event in events)
    assert device.calls <= intents, fault.place
    chain.mine_empty(3)
    healthy.worker.work()
    _repair(healthy)
    following = healthy.broadcast()
    expected = chain.transaction_count(healthy.signer.address)
    assert following.nonce == expected, fault.place
    return refund


@everywhere
def test_a_refund_survives_a_fault_at_every_call(
    wiped: Callable[[], Ledger], after: bool, kills: bool, repeats: bool
) -> None:
    """One payment, one nonce, only stored bytes, and no nonce gap (I1-I3, R5)."""

    def run(fault: Fault) -> None:
        store, chain = wiped(), ScriptedChain()
        refund = _run(fault, store, chain, _pay)
        stored = {sent.raw for sent in store.transactions(refund.id)}
        *ours, following = [Sent.read(raw) for raw in chain.broadcasts]
        assert {sent.raw for sent in ours} <= stored, fault.place
        nonces = {sent.nonce for sent in ours}
        assert (nonces, following.nonce) == ({0}, 1), fault.place

    questions = set() if after or kills else QUESTIONS
    changes = CHANGES - {"adopt", "pause", "add_unrecorded", "resume", "append"}
    places = fault_places(run, CHANGES, after=after, kills=kills, repeats=repeats)
    assert places >= questions | changes


@everywhere
def test_a_lost_ledger_survives_a_fault_at_every_call(
    wiped: Callable[[], Ledger], after: bool, kills: bool, repeats: bool
) -> None:
    """An earlier payment is found and not repeated, whichever call fails (R23, R24)."""
    before = World(wiped())
    before.submit()
    before.mine_deep()

    def run(fault: Fault) -> None:
        chain = deepcopy(before.chain)
        refund = _run(fault, wiped(), chain, _find_again, _restore_again)
        assert refund.tx_hash == Sent.read(chain.broadcasts[0]).hash, fault.place
        assert len(chain.broadcasts) == 2, fault.place

    questions = {
        *("find_transaction", "foreign_transactions", "find_unrecorded", "wallets")
    }
    changes = {"open_wallet", "pause", "add_unrecorded", "resume", "adopt", "append"}
    expected = changes if after or kills else changes | questions
    places = fault_places(run, CHANGES, after=after, kills=kills, repeats=repeats)
    assert places >= expected
