"""At most so many transactions of a wallet have no receipt; other refunds wait."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import pytest

from signer.config.networks import Network
from signer.model.audit_record import Actor
from signer.model.refund import Refund, Status
from signer.ports.refund_store import ANY_PLACES, Places
from signer.refunds.explanation import Explanation
from signer.refunds.lifecycle import MAX_OUTAGE_DELAY
from signer.refunds.saved_steps import Moving
from signer.refunds.windows import find_places
from tests.support.refunds import NETWORK, World, altered


_WINDOW = 2

_ACTOR = Actor("cli:tests")


def _bounded(most: int | None, **changes: Any) -> Network:
    given = NETWORK.model_dump(exclude={"kind", "max_in_flight"}) | changes
    bound = {} if most is None else {"max_in_flight": most}
    return Network.model_validate(given | bound)


@pytest.fixture
def world(world: World) -> World:
    """Return a world in which two transactions of a wallet may have no receipt."""
    world.network = _bounded(_WINDOW)
    return world


def _waiting(world: World, count: int = 3) -> list[Refund]:
    """Return so many refunds, after those that have a place were broadcast."""
    refunds = [world.accepted() for _ in range(count)]
    world.work()
    return refunds


def _explain(world: World, refund: Refund, **options: Any) -> Explanation:
    return world.explainer.explain(world.stored(refund), **options)


@pytest.mark.parametrize(
    ("chain_id", "given", "window"),
    [(1, None, 16), (31337, None, None), (1, 0, None), (31337, 5, 5), (1, 5, 5)],
)
def test_the_default_is_what_geth_guarantees(
    chain_id: int, given: int | None, window: int | None
) -> None:
    """A local test chain mines each transaction at once, and drops none."""
    assert _bounded(given, chain_id=chain_id).window == window


def test_a_refund_waits_for_a_place(world: World) -> None:
    """It has no nonce, no failed attempt and no delay: no worker claimed it (R33)."""
    first, second, third = _waiting(world)

    assert world.statuses([first, second]) == [Status.BROADCAST] * 2
    assert world.stored(third) == third


def test_a_receipt_frees_a_place(world: World) -> None:
    """Depth is not needed."""
    refunds = _waiting(world, 5)
    world.chain.mine()
    world.work()

    assert world.statuses(refunds) == [
        *[Status.MINED] * 2,
        *[Status.BROADCAST] * 2,
        Status.QUEUED,
    ]


def test_a_refund_that_waits_is_cancelled(world: World) -> None:
    *_, third = _waiting(world)
    world.service.request_cancellation("gateway", third.id, _ACTOR)
    world.work()

    assert world.stored(third).status is Status.CANCELLED


def test_places_are_shared_between_tenants(world: World) -> None:
    """One refund of each comes before the second one of either."""
    first = _waiting(world, 4)
    other = world.accepted(tenant="shop")
    world.chain.mine()
    world.work()

    assert world.stored(other).status is Status.BROADCAST
    assert world.statuses(first)[2:] == [Status.BROADCAST, Status.QUEUED]


def test_each_network_has_its_own_window(world: World) -> None:
    _waiting(world)
    networks = [_bounded(_WINDOW), _bounded(1, chain_id=999)]
    places = find_places(world.store, networks, world.signer.address)

    assert places == Places(1, frozenset({31337}))


def test_a_network_without_a_bound_is_never_full(world: World) -> None:
    store, sender = world.store, world.signer.address
    _waiting(world)
    networks = [_bounded(_WINDOW), _bounded(0, chain_id=999)]

    assert find_places(store, networks, sender) == Places(None, frozenset({31337}))
    assert find_places(store, networks[1:], sender) == ANY_PLACES


def _claiming_all(world: World) -> None:
    """Let workers claim without looking at the places, as if others had taken them."""
    store = world.store

    def claim(now: datetime, until: datetime, limit: int, **_: Any) -> Sequence[Moving]:
        return store.claim(now, until, limit)

    world.store = altered(store, claim=claim)


def test_a_place_that_another_worker_took_is_waited_for(world: World) -> None:
    """No node is asked about what has no place."""
    _claiming_all(world)
    first, second, third = _waiting(world)
    moving = world.stored(third).moving
    found = _explain(world, third)

    assert world.statuses([first, second]) == [Status.BROADCAST] * 2
    assert moving.blocked_by == "too-many-in-flight"
    assert moving.due_at - world.clock() <= MAX_OUTAGE_DELAY
    assert "see why the first refund ahead is stuck" in found.next_step


def test_a_refund_waits_on_while_no_place_is_free(world: World) -> None:
    """All that was claimed is released again."""
    _claiming_all(world)
    *_, third = _waiting(world)
    world.clock.advance(seconds=MAX_OUTAGE_DELAY.total_seconds())
    world.work()
    moving = world.stored(third).moving

    assert (moving.blocked_by, moving.attempts) == ("too-many-in-flight", 2)


def test_the_reservation_counts_in_its_transaction(world: World) -> None:
    """Two workers count at the same time; one of them reserves first."""
    _claiming_all(world)
    world.store = altered(world.store, count_in_flight=lambda _: {})
    first, second, third = _waiting(world)

    assert world.statuses([first, second]) == [Status.BROADCAST] * 2
    assert world.stored(third).status is Status.QUEUED
    assert world.stored(third).blocked_by == "too-many-in-flight"


def test_an_explanation_has_the_full_window(world: World) -> None:
    first, _, third = _waiting(world)
    found = _explain(world, third, for_tenant=True)

    assert found.summary == "It has no nonce yet: 2 transactions have no receipt."
    assert found.next_step == (
        "It gets a nonce after a receipt, and can be cancelled until then."
    )
    assert _explain(world, first).in_flight is None


@pytest.mark.parametrize("is_woken", [False, True])
def test_a_worker_looks_for_receipts_while_the_window_is_full(
    world: World, *, is_woken: bool
) -> None:
    """It does not wait for its next pass, also if other refunds wake it before."""
    refunds = [world.accepted() for _ in range(5)]
    world.clock.advance(minutes=1)
    waits: list[float] = []

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        world.clock.advance(seconds=seconds)
        if len(waits) > 1:
            world.chain.mine()
        return is_woken

    worker = world.waiting_worker(wait)
    worker._timer = lambda: world.clock().timestamp()
    worker.run(lambda: len(waits) == 5, 60)

    assert max(waits[:3]) < 1
    assert Status.QUEUED not in world.statuses(refunds)
