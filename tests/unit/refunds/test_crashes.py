"""
Whatever dies, and wherever: the refund is paid once.

Every call to the outside (database, node, device) is made to fail in turn, before
it had its effect or after.  The process dies there, or is told of an error; then
the gateway asks again with the same key, and a new worker goes on.  Real kills of
real processes are in ``tests/crash``.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast
from uuid import uuid4

import pytest

from backends.sql import SQLStore
from signer.errors import (
    BackendUnavailableError,
    ChainUnavailableError,
    HotWalletError,
    StoreUnavailableError,
)
from signer.ports import ChainClient, Store
from signer.refunds.refund import Refund, Status
from tests.fixtures.scripted_chain import ScriptedChain, Sent
from tests.support.devices import Device, honest, recording, signer_over
from tests.support.refunds import CUSTOMER, KEY, REQUEST, World


class Killed(BaseException):
    """The process is gone: nothing may catch this."""


class Fault:
    """Strikes at one of the calls to the outside, counted from 1."""

    def __init__(self, at: int, *, after: bool, deadly: bool) -> None:
        self._at = at
        self._after = after
        self._deadly = deadly
        self.count = 0
        self.place = ""

    def call(self, work: Callable[[], Any], name: str, error: Exception) -> Any:
        """Do *work*, unless it is its turn to fail."""
        self.count += 1
        if self.count != self._at:
            return work()
        self.place = name
        if self._after:
            work()
        raise Killed if self._deadly else error


class Faulty:
    """Anything outside, with a *fault* in each of its methods."""

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


@pytest.fixture
def stores(sqlite_url: str) -> Iterator[Callable[[], Store]]:
    """Return a maker of empty ledgers, in memory where the system has such files."""
    template = sqlite_url.removeprefix("sqlite:///")
    memory = Path("/dev/shm")
    with (
        TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder,
        ExitStack() as opened,
    ):

        def make() -> Store:
            path = Path(folder) / f"{uuid4()}.db"
            shutil.copy(template, path)
            return opened.enter_context(closing(SQLStore(f"sqlite:///{path}")))

        yield make


def _submit(world: World) -> Refund:
    refund, _ = world.service.submit(
        client="gateway",
        idempotency_key="key-1",
        request=REQUEST,
        request_id="req-1",
    )
    return refund


def _live(world: World, chain: ScriptedChain) -> None:
    """Ask for the refund, and let it be mined, reorganised and confirmed."""
    _submit(world)
    for happens in (
        chain.mine,
        chain.rename_blocks,
        lambda: chain.mine_empty(3),
        lambda: None,
    ):
        happens()
        world.worker.work()


def _go_on(world: World, chain: ScriptedChain) -> Refund:
    """Ask again as the gateway does, and work until the refund is final."""
    refund = _submit(world)
    for _ in range(8):
        if refund.status.is_final:
            break
        world.clock.advance(seconds=31)
        world.worker.work()
        chain.mine()
        chain.mine_empty(1)
        refund = world.service.get("gateway", refund.id)
    return refund


def _suffer(fault: Fault, store: Store) -> None:
    chain = ScriptedChain()
    device = honest(KEY)
    audit, events = recording()
    signer = signer_over(device, audit)
    signer._backend = cast(
        "Device", Faulty(device, fault, BackendUnavailableError("gone"))
    )
    mortal = World(
        cast("Store", Faulty(store, fault, StoreUnavailableError("gone"))),
        chain,
        signer=signer,
        client=cast("ChainClient", Faulty(chain, fault, ChainUnavailableError("gone"))),
    )
    with suppress(Killed, HotWalletError):
        _live(mortal, chain)

    healthy = World(store, chain, mortal.clock, signer_over(device, audit))
    refund = _go_on(healthy, chain)

    assert refund.status is Status.CONFIRMED, fault.place
    assert chain.payouts() == [(CUSTOMER, 12_500_000)], fault.place
    assert {Sent.read(raw).nonce for raw in chain.broadcasts} == {0}, fault.place
    assert len({*chain.broadcasts}) == 1, fault.place
    assert chain.broadcasts[0] == store.transactions(refund.id)[-1].raw
    intents = sum(event["event"] == "signing-intent" for event in events)
    assert device.calls <= intents, fault.place
    assert healthy.step(healthy.accepted(), times=3).nonce == 1, fault.place


@pytest.mark.parametrize("deadly", [True, False], ids=["killed", "error"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_refund_survives_a_fault_at_every_call(
    stores: Callable[[], Store], after: bool, deadly: bool
) -> None:
    """One payout, one nonce, the stored bytes, and no gap behind it (I1-I3, R5)."""
    places: list[str] = []
    at = 0
    while not places or places[-1]:
        at += 1
        fault = Fault(at, after=after, deadly=deadly)
        _suffer(fault, stores())
        places.append(fault.place)

    # Every port was struck somewhere, or this would prove nothing.
    assert {"accept", "reserve", "save", "transactions", "open_refunds"} <= {*places}
    assert {"estimate_gas", "transaction_count", "fees", "broadcast"} <= {*places}
    assert {"receipt", "latest_block", "block", "sign_digest"} <= {*places}
