"""What the gateway can ask for, and what it can rely on."""

from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from signer.errors import (
    BackendUnavailableError,
    BroadcastRejectedError,
    ChainUnavailableError,
    ConflictError,
    HotWalletError,
    IdempotencyMismatchError,
    InvalidInputError,
    NotFoundError,
    PolicyViolationError,
    StoreUnavailableError,
)
from signer.ports import Store
from signer.refunds.lifecycle import Actor, Lifecycle
from signer.refunds.refund import Refund, RefundRequest, Status
from signer.refunds.service import RefundService
from tests.support.devices import honest, planted, point, recording, signer_over
from tests.support.refunds import CUSTOMER, KEY, NETWORK, REQUEST, World


@pytest.fixture
def world(sqlite_store: Store) -> World:
    """A service over SQLite and a scripted chain."""
    return World(sqlite_store)


def _submit(
    world: World,
    request: RefundRequest = REQUEST,
    key: str = "key-1",
    client: str = "gateway",
) -> tuple[Refund, bool]:
    return world.service.submit(
        client=client, idempotency_key=key, request=request, request_id="req-1"
    )


def test_a_refund_is_accepted_and_sent(world: World) -> None:
    """The answer to the first request has the hash, and the node has the bytes."""
    refund, created = _submit(world)

    assert created
    assert refund == world.store.get(refund.id)
    assert refund.status is Status.BROADCAST
    assert refund.tx_hash in world.chain.pool
    assert (refund.client, refund.idempotency_key) == ("gateway", "key-1")


def test_the_audit_log_names_who_asked(world: World) -> None:
    """The signature is made on behalf of the client, for its request."""
    audit, events = recording()
    world.signer = signer_over(honest(KEY), audit)

    _submit(world)

    assert {(event["actor"], event["request_id"]) for event in events} == {
        ("gateway", "req-1")
    }


def test_asking_twice_pays_once(world: World) -> None:
    """The same key and request answer with the same refund, and send nothing (R1)."""
    first, _ = _submit(world)

    for _ in range(3):
        again, created = _submit(world)

        assert not created
        assert again == first
    assert len(world.chain.broadcasts) == 1


def test_a_key_is_for_one_request(world: World) -> None:
    """Another request under the same key is refused (R2)."""
    _submit(world)

    with pytest.raises(IdempotencyMismatchError):
        _submit(world, replace(REQUEST, amount="12.51"))


def test_a_reference_is_paid_once(world: World) -> None:
    """Another key for the same reference is refused, whoever has it (R4)."""
    _submit(world)

    with pytest.raises(ConflictError):
        _submit(world, key="key-2")


def test_clients_have_keys_of_their_own(world: World) -> None:
    """Two clients may use the same key."""
    _submit(world)

    _, created = _submit(world, replace(REQUEST, reference="theirs"), client="other")

    assert created


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (replace(REQUEST, amount="0"), InvalidInputError),
        (replace(REQUEST, recipient="0x"), InvalidInputError),
        (replace(REQUEST, network="mars"), PolicyViolationError),
        (replace(REQUEST, amount="1000.5"), PolicyViolationError),
    ],
)
def test_what_is_refused_is_not_stored(
    world: World, request_: RefundRequest, error: type[HotWalletError]
) -> None:
    """Neither the key nor the reference is used up by a mistake."""
    with pytest.raises(error):
        _submit(world, request_)

    assert world.service.list("gateway").refunds == ()
    assert _submit(world)[1]


def test_what_was_accepted_stays_accepted(world: World) -> None:
    """A limit that was lowered meanwhile does not turn a replay into an error."""
    first, _ = _submit(world)
    strict = NETWORK.model_copy(
        update={
            "tokens": {
                "TUSD": NETWORK.tokens["TUSD"].model_copy(update={"max_amount": "1"})
            }
        }
    )
    service = RefundService(
        world.store,
        {"local": strict},
        world.lifecycle,
        wallet=world.signer.address,
        clock=world.clock,
    )

    again, created = service.submit(
        client="gateway", idempotency_key="key-1", request=REQUEST, request_id="req-2"
    )

    assert (again, created) == (first, False)
    with pytest.raises(PolicyViolationError):
        service.submit(
            client="gateway",
            idempotency_key="key-1",
            request=replace(REQUEST, amount="13"),
            request_id="req-3",
        )


def test_an_accepted_key_with_nonsense_is_still_nonsense(world: World) -> None:
    """A malformed request is refused as such, whatever its key was used for."""
    _submit(world)

    with pytest.raises(InvalidInputError):
        _submit(world, replace(REQUEST, amount="-1"))


@pytest.mark.parametrize(
    ("method", "error", "status"),
    [
        ("estimate_gas", ChainUnavailableError("gone"), Status.QUEUED),
        ("transaction_count", ChainUnavailableError("gone"), Status.QUEUED),
        ("fees", ChainUnavailableError("gone"), Status.RESERVED),
        ("broadcast", ChainUnavailableError("gone"), Status.SIGNED),
        ("broadcast", BroadcastRejectedError("no", reason="other"), Status.SIGNED),
    ],
)
def test_trouble_behind_the_acceptance_is_no_error(
    world: World, method: str, error: HotWalletError, status: Status
) -> None:
    """The refund is accepted, waits where it is, and is logged without details."""
    world.chain.fail(method, error)

    with capture_logs() as logs:
        refund, created = _submit(world)

    assert created
    assert refund.status is status
    assert refund == world.store.get(refund.id)
    assert [
        (entry["event"], entry["code"], entry["status"], entry["refund_id"])
        for entry in logs
    ] == [("refund-delayed", error.code, status, refund.id)]
    assert "gone" not in str(logs)


def test_a_device_that_is_gone_delays_the_refund(world: World) -> None:
    """The nonce is kept, and the worker signs when the device is back (K2)."""
    world.signer = signer_over(planted(point(KEY), BackendUnavailableError("gone")))

    refund, _ = _submit(world)

    assert refund.status is Status.RESERVED
    assert refund.nonce == 0


class Overtaken(Lifecycle):
    """Takes each step when a worker has taken it already."""

    def step(self, refund: Refund, actor: Actor) -> Refund:
        """Come second."""
        super().step(refund, actor)
        return super().step(refund, actor)


def test_a_worker_may_be_faster(world: World) -> None:
    """When somebody else took the step, the answer is what the store says."""
    service = RefundService(
        world.store,
        {"local": NETWORK},
        Overtaken(world.store, world.lifecycle._chains, world.signer, world.clock),
        wallet=world.signer.address,
        clock=world.clock,
    )

    refund, created = service.submit(
        client="gateway", idempotency_key="key-1", request=REQUEST, request_id="req-1"
    )

    assert created
    assert refund.status is Status.RESERVED
    assert refund == world.store.get(refund.id)


def test_a_ledger_that_goes_away_takes_no_acceptance_back(world: World) -> None:
    """Who was overtaken and cannot look again answers what it knows: accepted."""

    class Forgetful:
        def __getattr__(self, name: str) -> object:
            return getattr(world.store, name)

        def get(self, refund_id: str) -> Refund | None:
            raise StoreUnavailableError("gone")

    service = RefundService(
        Forgetful(),  # type: ignore[arg-type]  # All the rest is the real one's.
        {"local": NETWORK},
        Overtaken(world.store, world.lifecycle._chains, world.signer, world.clock),
        wallet=world.signer.address,
        clock=world.clock,
    )

    refund, created = service.submit(
        client="gateway", idempotency_key="key-1", request=REQUEST, request_id="req-1"
    )

    assert (created, refund.status) == (True, Status.QUEUED)


def test_a_request_does_not_wait_for_ever(world: World) -> None:
    """After five seconds the answer is how far the refund came."""
    readings = iter([100.0, 100.0, 104.9, 105.0])
    service = RefundService(
        world.store,
        {"local": NETWORK},
        world.lifecycle,
        wallet=world.signer.address,
        clock=world.clock,
        timer=lambda: next(readings),
    )

    refund, _ = service.submit(
        client="gateway", idempotency_key="key-1", request=REQUEST, request_id="req-1"
    )

    assert refund.status is Status.SIGNED


def test_a_store_that_is_gone_is_an_error() -> None:
    """Whether the refund was accepted is unknown, and the same key finds out."""

    class NoStore:
        def accept(self, refund: Refund) -> tuple[Refund, bool]:
            raise StoreUnavailableError("gone")

    world = World(NoStore())  # type: ignore[arg-type]  # All that is asked of it.

    with pytest.raises(StoreUnavailableError):
        _submit(world)


def test_a_refund_is_shown_to_its_client_only(world: World) -> None:
    """Another client's refund is not there."""
    refund, _ = _submit(world)

    assert world.service.get("gateway", refund.id) == refund
    for client, refund_id in [("other", refund.id), ("gateway", "rf_x")]:
        with pytest.raises(NotFoundError):
            world.service.get(client, refund_id)


def test_refunds_are_listed_by_client_session_and_status(world: World) -> None:
    """Filters and pages are the store's."""
    first, _ = _submit(world)
    other = replace(REQUEST, reference="2", payment_session_id="session-2")
    second, _ = _submit(world, other, key="key-2")
    service = world.service

    assert {refund.id for refund in service.list("gateway").refunds} == {
        first.id,
        second.id,
    }
    assert service.list("other").refunds == ()
    assert service.list("gateway", payment_session_id="session-2").refunds == (second,)
    assert service.list("gateway", status=Status.CONFIRMED).refunds == ()
    page = service.list("gateway", limit=1)
    assert len(page.refunds) == 1
    rest = service.list("gateway", limit=1, cursor=page.next_cursor)
    assert {page.refunds[0].id, rest.refunds[0].id} == {first.id, second.id}


def test_a_submitted_refund_is_paid(world: World) -> None:
    """From the request to the event: once, the right amount, to the customer."""
    refund, _ = _submit(world)
    world.chain.mine()
    world.chain.mine_empty(2)

    world.worker.work()

    assert world.service.get("gateway", refund.id).status is Status.CONFIRMED
    assert world.chain.payouts() == [(CUSTOMER, 12_500_000)]
