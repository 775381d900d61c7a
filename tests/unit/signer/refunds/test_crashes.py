"""
A refund is paid once, whichever call fails or kills the process.

Every call to the outside (database, node, device) is made to fail in turn, before it
had its effect or after.  The process dies there, or gets an error; then the gateway
repeats the request with the same key, and a new worker goes on.  Real kills of real
processes are in ``tests/crash``.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

import pytest

from signer.errors import (
    BackendUnavailableError,
    ChainUnavailableError,
    HotWalletError,
    StoreUnavailableError,
)
from signer.model.refund import HOLD, Refund, Status
from signer.ports import ChainClient, Ledger
from signer.refunds.wallet_repair import repair_wallets
from tests.fixtures.scripted_chain import ScriptedChain, Sent
from tests.support.devices import Device, honest, recording, signer_over
from tests.support.refunds import CUSTOMER, KEY, REQUEST, World


CHANGES = {
    *("accept", "remember_answer", "reserve", "save", "adopt", "claim"),
    *("open_wallet", "pause", "add_unrecorded", "resume", "broadcast", "sign_digest"),
}
"""What has an effect.  A question whose answer is lost might not have been asked."""

QUESTIONS = {
    *("transactions", "in_flight", "wallet", "foreign_transactions", "find_unrecorded"),
    *("estimate_gas", "pending_count", "transaction_count", "fees"),
    *("receipts", "latest_block", "block"),
}


class Killed(BaseException):
    """The process dies: nothing may catch this."""


class Fault:
    """Strikes at one call to the outside, or after one change."""

    def __init__(self, at: int, *, after: bool, deadly: bool) -> None:
        self._at = at
        self._after = after
        self._deadly = deadly
        self.count = 0
        self.place = ""

    def call(self, work: Callable[[], Any], name: str, error: Exception) -> Any:
        """Run *work*, unless the fault is due."""
        self.count += not self._after or name in CHANGES
        if self.place or self.count != self._at:
            return work()
        self.place = name
        if self._after:
            work()
        raise Killed if self._deadly else error


class Faulty:
    """A dependency with a *fault* in each of its methods."""

    def __init__(self, target: object, fault: Fault, error: Exception) -> None:
        self._target = target
        self._fault = fault
        self._error = error

    def __getattr__(self, name: str) -> Any:
        """Return the target's attribute, or its method with the fault."""
        attribute = getattr(self._target, name)
        if not callable(attribute):
            return attribute

        def method(*args: Any, **kwargs: Any) -> Any:
            return self._fault.call(
                lambda: attribute(*args, **kwargs), name, self._error
            )

        return method


def _submit(world: World) -> Refund:
    """Submit the refund, and store its answer."""
    submission = world.service.submit(
        client="gateway",
        idempotency_key="key-1",
        request=REQUEST,
        request_id="req-1",
    )
    if submission.answer is None:
        world.service.remember_answer(submission.refund, "answer")
    return submission.refund


def _pay(world: World) -> None:
    """Submit the refund; let it be stuck, replaced, mined, reorganised, confirmed."""
    chain = world.chain
    _submit(world)
    world.work(after=2 * HOLD)
    world.clock.advance(seconds=world.network.stuck_after_seconds)
    for happens in (
        chain.forget,
        chain.mine,
        chain.rename_blocks,
        lambda: chain.mine_empty(3),
        lambda: None,
    ):
        happens()
        world.worker.work()


def _find_again(world: World) -> None:
    """Request what a lost ledger had paid; then let someone else use the key."""
    chain = world.chain
    _submit(world)
    world.work()
    world.worker.work()
    chain.mine_foreign(world.signer.address)
    world.worker.work()
    chain.mine_empty(3)
    world.worker.work()
    _repair(world)


def _repair(world: World) -> None:
    list(repair_wallets(world.store, world.chains, world.clock, apply=True))


def _go_on(world: World) -> Refund:
    """Submit again as the gateway does, and work until the refund is final."""
    world.clock.advance(seconds=31)
    refund = _submit(world)
    for _ in range(8):
        if refund.status.is_final:
            break
        world.clock.advance(seconds=31)
        world.worker.work()
        world.chain.mine()
        world.chain.mine_empty(1)
        refund = world.service.get("gateway", refund.id)
    return refund


Life = Callable[[World], None]


def _suffer(fault: Fault, store: Ledger, chain: ScriptedChain, live: Life) -> Refund:
    """Run with *fault*, then without, and return the final refund."""
    device = honest(KEY)
    audit, events = recording()
    signer = signer_over(device, audit)
    signer._backend = cast(
        "Device", Faulty(device, fault, BackendUnavailableError("gone"))
    )
    mortal = World(
        cast("Ledger", Faulty(store, fault, StoreUnavailableError("gone"))),
        chain,
        signer=signer,
        client=cast("ChainClient", Faulty(chain, fault, ChainUnavailableError("gone"))),
    )
    with suppress(Killed, HotWalletError):
        live(mortal)

    healthy = World(store, chain, mortal.clock, signer_over(device, audit))
    refund = _go_on(healthy)

    assert refund.status is Status.CONFIRMED, fault.place
    assert chain.payouts() == [(CUSTOMER, 12_500_000)], fault.place
    assert store.answer(refund.id) == "answer", fault.place
    assert refund.nonce == 0, fault.place
    intents = sum(event["event"] == "digest-sign-requested" for event in events)
    assert device.calls <= intents, fault.place
    chain.mine_empty(3)
    healthy.worker.work()
    _repair(healthy)
    behind = healthy.broadcast()
    assert behind.nonce == chain.transaction_count(healthy.signer.address), fault.place
    return refund


def _struck(after: bool, deadly: bool, suffer: Callable[[Fault], None]) -> set[str]:
    """Let a fault strike at every call, and return where."""
    places: list[str] = []
    while not places or places[-1]:
        fault = Fault(len(places) + 1, after=after, deadly=deadly)
        suffer(fault)
        places.append(fault.place)
    return {*places}


everywhere = pytest.mark.parametrize(
    ("after", "deadly"),
    [(False, True), (True, True), (False, False), (True, False)],
    ids=["killed-before", "killed-after", "error-before", "error-after"],
)


@everywhere
def test_a_refund_survives_a_fault_at_every_call(
    wiped: Callable[[], Ledger], after: bool, deadly: bool
) -> None:
    """One payment, one nonce, only stored bytes, and no nonce gap (I1-I3, R5)."""

    def suffer(fault: Fault) -> None:
        store, chain = wiped(), ScriptedChain()
        refund = _suffer(fault, store, chain, _pay)
        stored = {sent.raw for sent in store.transactions(refund.id)}
        *ours, behind = [Sent.read(raw) for raw in chain.broadcasts]
        assert {sent.raw for sent in ours} <= stored, fault.place
        assert ({sent.nonce for sent in ours}, behind.nonce) == ({0}, 1), fault.place

    asked = set() if after else QUESTIONS
    changed = CHANGES - {"adopt", "pause", "add_unrecorded", "resume"}
    # Every port was struck somewhere, or this would prove nothing.
    assert _struck(after, deadly, suffer) >= asked | changed


@everywhere
def test_a_lost_ledger_survives_a_fault_at_every_call(
    wiped: Callable[[], Ledger], after: bool, deadly: bool
) -> None:
    """An earlier payment is found and not repeated, whichever call fails (R23, R24)."""

    def suffer(fault: Fault) -> None:
        chain = ScriptedChain()
        before = World(wiped(), chain)
        _submit(before)
        before.mine_deep()
        refund = _suffer(fault, wiped(), chain, _find_again)
        assert refund.tx_hash == Sent.read(chain.broadcasts[0]).hash, fault.place
        assert len(chain.broadcasts) == 2, fault.place

    asked = (
        set()
        if after
        else {"find_transaction", "foreign_transactions", "find_unrecorded", "wallets"}
    )
    changed = {"open_wallet", "pause", "add_unrecorded", "resume", "adopt"}
    assert _struck(after, deadly, suffer) >= asked | changed
