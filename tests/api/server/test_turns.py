"""Which request gets a thread next."""

import base64
import json
from collections.abc import Iterable
from typing import Any

import pytest

from api.request_context import TENANT
from api.server.turns import Queue, TokenTenants, Turns, read_token
from signer.config.tenants import Tenant, TenantRegistry


BUSY, OTHER, SLOW, ONLY = (
    Queue(name, is_verified=True) for name in ("busy", "other", "slow", "only")
)
NEW_BUSY, NEW_OTHER, UNKNOWN = (
    Queue(name, is_verified=False) for name in ("busy", "other", None)
)


def _take_all(turns: Turns[int]) -> list[tuple[Queue, int]]:
    taken = []
    while (turn := turns.take()) is not None:
        taken.append(turn)
    return taken


def test_tenants_take_turns() -> None:
    """A tenant with many requests has as many turns as one with a few."""
    turns = Turns[int](8, lambda: True)
    for number in range(40):
        turns.add(BUSY, number)
    turns.add(OTHER, 0)
    turns.add(UNKNOWN, 0)
    turns.add(OTHER, 1)

    assert _take_all(turns) == [
        (BUSY, 0),
        (OTHER, 0),
        (UNKNOWN, 0),
        (BUSY, 1),
        (OTHER, 1),
        (BUSY, 2),
        (BUSY, 3),
    ]
    turns.leave(BUSY, "busy", 0.0)
    assert _take_all(turns) == [(BUSY, 4)]


@pytest.mark.parametrize(("threads", "at_most"), [(1, 1), (2, 1), (4, 2), (16, 8)])
def test_one_of_two_tenants_has_half_of_the_threads(threads: int, at_most: int) -> None:
    """The other half is free for the other one."""
    turns = Turns[int](threads, lambda: True)
    for number in range(3 * threads):
        assert turns.add(BUSY, number)

    assert len(_take_all(turns)) == at_most


def test_few_requests_that_compute_for_long_run_at_once() -> None:
    """Others would wait for the interpreter; also in a later burst."""
    now = 0.0
    turns = Turns[int](16, lambda: True, lambda: now)
    for number in range(60):
        turns.add(BUSY, number)
        now += 10.0
        _take_all(turns)
        turns.leave(BUSY, "busy", 0.03)
    now += 600.0
    turns.add(OTHER, 0)
    for number in range(20):
        turns.add(BUSY, number)
        turns.add(OTHER, number)
    taken = []
    for _ in range(1_000):
        now += 0.01
        taken += _take_all(turns)

    assert sum(queue == BUSY for queue, _ in taken) == 1
    assert sum(queue == OTHER for queue, _ in taken) == 8


def test_the_tenant_that_a_request_proves_to_be_of_pays_for_it() -> None:
    """Its other requests with new tokens wait as well; those of others do not."""
    now = 0.0
    turns = Turns[int](16, lambda: True, lambda: now)
    for number in range(8):
        turns.add(NEW_BUSY, number)
    assert len(_take_all(turns)) == 4
    for _ in range(4):
        turns.leave(NEW_BUSY, "busy", 0.1)
    for queue in (BUSY, NEW_OTHER, UNKNOWN):
        turns.add(queue, 8)

    assert _take_all(turns) == [(NEW_OTHER, 8), (UNKNOWN, 8)]
    now += 10.0
    assert _take_all(turns) == [(NEW_BUSY, 4), (BUSY, 8)]


def test_forged_tokens_delay_only_new_tokens_of_the_tenant_that_they_claim() -> None:
    """They prove to be of no tenant, so their own queue pays for them."""
    now = 0.0
    turns = Turns[int](16, lambda: True, lambda: now)
    for number in range(8):
        turns.add(NEW_BUSY, number)
    for _ in _take_all(turns):
        turns.leave(NEW_BUSY, None, 0.1)
    for queue in (BUSY, NEW_OTHER):
        turns.add(queue, 8)

    assert _take_all(turns) == [(BUSY, 8), (NEW_OTHER, 8)]
    turns.leave(BUSY, "busy", 0.0)
    assert turns.seconds_left() == pytest.approx(0.4)


def test_forged_tokens_do_not_make_the_parts_of_tenants_smaller() -> None:
    """All unverified tokens are one part, however many tenants they claim."""
    now = 0.0
    turns = Turns[int](16, lambda: True, lambda: now)
    turns.add(BUSY, 0)
    for number in range(9):
        turns.add(Queue(f"claimed-{number}", is_verified=False), 0)
    assert len(_take_all(turns)) == 10
    turns.leave(BUSY, "busy", 0.1)
    turns.add(BUSY, 1)

    assert turns.seconds_left() == pytest.approx(0.2)


@pytest.mark.parametrize("queue", [ONLY, UNKNOWN])
def test_a_single_tenant_has_all_threads(queue: Queue) -> None:
    """And no bound of requests that wait; also if no token is known."""
    turns = Turns[int](4, lambda: False)
    assert all(turns.add(queue, number) for number in range(100))

    assert _take_all(turns) == [(queue, number) for number in range(4)]
    turns.leave(queue, queue.tenant, 0.0)
    assert _take_all(turns) == [(queue, 4)]


def test_few_requests_of_one_of_two_tenants_wait() -> None:
    """The others do not occupy the connections that all share."""
    turns = Turns[int](4, lambda: True)

    assert [turns.add(BUSY, number) for number in range(17)] == [*[True] * 16, False]
    assert turns.add(OTHER, 1)


@pytest.fixture
def now() -> list[float]:
    return [100.0]


@pytest.fixture
def turns(now: list[float]) -> Turns[int]:
    return Turns[int](8, lambda: True, lambda: now[0])


def _run(turns: Turns[int], now: list[float], queue: Queue, seconds: float) -> None:
    """Serve a request of *queue* that takes *seconds* of CPU time and no more."""
    assert turns.add(queue, 0)
    assert turns.take() == (queue, 0)
    now[0] += seconds
    turns.leave(queue, queue.tenant, seconds)


@pytest.mark.parametrize("others", [0, 1, 3])
def test_tenants_share_the_processor(
    turns: Turns[int], now: list[float], others: int
) -> None:
    """One that never pauses has its part of ten seconds, and no more."""
    used = 0.0
    turns.add(BUSY, 0)
    for number in range(others):
        turns.add(Queue(f"other-{number}", is_verified=True), 0)
    while now[0] < 110:
        turn = turns.take()
        if turn is None:
            now[0] += max(turns.seconds_left() or 0.0, 1e-6)
            continue
        seconds = 0.01 if turn[0] == BUSY else 0.0
        now[0] += seconds
        used += seconds
        turns.leave(turn[0], turn[0].tenant, seconds)
        if turn[0] != BUSY:
            now[0] += 0.001
        turns.add(*turn)

    assert used == pytest.approx(10 / (1 + others), rel=0.05)


def test_requests_start_one_after_another(turns: Turns[int], now: list[float]) -> None:
    """Another tenant's request never meets many that start at once."""
    for _ in range(50):
        _run(turns, now, OTHER, 0.0)
        _run(turns, now, BUSY, 0.01)
        now[0] += 0.02
    for number in range(8):
        turns.add(BUSY, number)

    assert _take_all(turns) == [(BUSY, 0)]
    assert turns.seconds_left() == pytest.approx(0.02, rel=0.01)
    now[0] += 0.0201
    assert _take_all(turns) == [(BUSY, 1)]
    turns.leave(BUSY, "busy", 0.03)
    assert turns.seconds_left() == pytest.approx(0.06, rel=0.02)


def test_requests_that_wait_for_others_start_at_once(
    turns: Turns[int], now: list[float]
) -> None:
    """They take threads, and no CPU time."""
    for _ in range(50):
        _run(turns, now, OTHER, 0.0)
        _run(turns, now, SLOW, 0.0)
    for number in range(8):
        turns.add(SLOW, number)

    assert len(_take_all(turns)) == 4
    assert turns.seconds_left() is None


@pytest.mark.parametrize(
    ("seconds", "is_back", "left"),
    [(0.0, False, 0.0), (5.0, False, 0.3), (5.0, True, 0.3), (None, False, 0.3)],
    ids=["gone", "still charged", "waits", "runs"],
)
def test_a_tenant_without_requests_has_no_part(
    turns: Turns[int],
    now: list[float],
    seconds: float | None,
    is_back: bool,
    left: float,
) -> None:
    """After two seconds, unless one runs or waits, or it used too much."""
    if seconds is None:
        turns.add(OTHER, 0)
        assert turns.take() == (OTHER, 0)
    else:
        _run(turns, now, OTHER, seconds)
        now[0] -= seconds
    if is_back:
        turns.add(OTHER, 1)
    now[0] += 2.1
    _run(turns, now, BUSY, 0.3)
    turns.add(BUSY, 1)

    assert turns.seconds_left() == pytest.approx(left)


def test_a_single_tenant_is_never_delayed(now: list[float]) -> None:
    """Requests without a known token are not another one."""
    turns = Turns[int](8, lambda: False, lambda: now[0])
    turns.add(UNKNOWN, 0)
    for number in range(8):
        turns.add(ONLY, number)
    assert turns.take() == (UNKNOWN, 0)
    assert turns.take() == (ONLY, 0)
    turns.leave(ONLY, "only", 5.0)

    assert len(_take_all(turns)) == 7
    assert turns.seconds_left() is None


SHOP = TenantRegistry({"shop": Tenant(subjects=("gateway",), client_ids=("pos",))})


def _bearer(*claims: str) -> str:
    """Return a header with a token of *claims* that no key has signed."""
    text = {"iss": "i", "aud": "a", "jti": "j", "exp": 2, "nbf": 1, "iat": 1}
    payload = json.dumps(
        text | {"roles": []} | dict(each.split("=") for each in claims)
    )
    encoded = base64.urlsafe_b64encode(payload.encode()).decode()
    return f"Bearer e30.{encoded.rstrip('=')}.c2ln"


def _answer(environ: dict[str, Any], _: object) -> Iterable[bytes]:
    if environ["HTTP_AUTHORIZATION"] == "Bearer valid":
        environ[TENANT] = "shop"
    elif environ["HTTP_AUTHORIZATION"] == "Bearer of-no-tenant":
        environ[TENANT] = None
    return [b"answered"]


@pytest.mark.parametrize(
    ("head", "queue"),
    [
        ("\r\nAuthorization: Bearer valid\r\n\r\n", Queue("shop", is_verified=True)),
        (
            "\r\nHost: h\r\nauthorization:Bearer valid \r\n",
            Queue("shop", is_verified=True),
        ),
        ("\r\nAuthorization: Bearer of-no-tenant\r\n\r\n", UNKNOWN),
        ("\r\nAuthorization: Bearer unknown\r\n\r\n", UNKNOWN),
        ("\r\nAuthorization: Bearer valid", UNKNOWN),
        ("\r\nX-Authorization: Bearer valid\r\n\r\n", UNKNOWN),
        ("\r\nAuthorization: \xff\r\n\r\n", UNKNOWN),
        ("", UNKNOWN),
    ],
)
def test_a_verified_token_has_its_tenant(head: str, queue: Queue) -> None:
    """A token that no request was answered with has none."""
    tenants = TokenTenants(_answer, SHOP)
    for token in ("valid", "of-no-tenant"):
        environ = {"HTTP_AUTHORIZATION": f"Bearer {token}"}
        assert tenants(environ, None) == [b"answered"]
        assert not tenants.are_several()
    token = read_token(f"GET / HTTP/1.1{head}".encode("latin-1"))

    assert tenants.queue(token) == queue
    assert tenants.find(token) == (queue.tenant if queue.is_verified else None)


@pytest.mark.parametrize(
    ("registry", "claims", "tenant"),
    [
        (SHOP, ["sub=gateway"], "shop"),
        (SHOP, ["sub=anyone", "client_id=pos"], "shop"),
        (SHOP, ["sub=shop"], None),
        (SHOP, [], None),
        (TenantRegistry(), ["sub=gateway"], None),
    ],
    ids=["subject", "client", "name", "no claims", "no file"],
)
def test_an_unverified_token_waits_with_those_that_claim_its_tenant(
    registry: TenantRegistry, claims: list[str], tenant: str | None
) -> None:
    """Only configured tenants have queues, so forged names cannot make new ones."""
    tenants = TokenTenants(_answer, registry)

    queue = tenants.queue(_bearer(*claims))

    assert queue == Queue(tenant, is_verified=False)


def test_the_oldest_token_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients may take a new token for each request."""
    monkeypatch.setattr("api.server.turns._TOKENS", 2)

    def answer(environ: dict[str, Any], _: object) -> Iterable[bytes]:
        environ[TENANT] = environ["HTTP_AUTHORIZATION"]
        return []

    tenants = TokenTenants(answer, SHOP)
    for token in "abc":
        assert tenants.are_several() == (token == "c")
        tenants({"HTTP_AUTHORIZATION": token}, None)

    assert [tenants.find(token) for token in "abc"] == [None, "b", "c"]
