"""Which request gets a thread next."""

from collections.abc import Iterable
from typing import Any

import pytest

from api.request_context import TENANT
from api.server.turns import TokenTenants, Turns, read_token


def _take_all(turns: Turns[int]) -> list[tuple[str | None, int]]:
    taken = []
    while (turn := turns.take()) is not None:
        taken.append(turn)
    return taken


def test_tenants_take_turns() -> None:
    """A tenant with many requests has as many turns as one with a few."""
    turns = Turns[int](8, lambda: True)
    for number in range(40):
        turns.add("busy", number)
    turns.add("other", 0)
    turns.add(None, 0)
    turns.add("other", 1)

    assert _take_all(turns) == [
        ("busy", 0),
        ("other", 0),
        (None, 0),
        ("busy", 1),
        ("other", 1),
        ("busy", 2),
        ("busy", 3),
    ]
    turns.leave("busy", "busy", 0.0)
    assert _take_all(turns) == [("busy", 4)]


@pytest.mark.parametrize(("threads", "at_most"), [(1, 1), (2, 1), (4, 2), (16, 8)])
def test_one_of_two_tenants_has_half_of_the_threads(threads: int, at_most: int) -> None:
    """The other half is free for the other one."""
    turns = Turns[int](threads, lambda: True)
    for number in range(3 * threads):
        assert turns.add("busy", number)

    assert len(_take_all(turns)) == at_most


def test_few_requests_that_compute_for_long_run_at_once() -> None:
    """Others would wait for the interpreter; also in a later burst."""
    now = 0.0
    turns = Turns[int](16, lambda: True, lambda: now)
    for number in range(60):
        turns.add("busy", number)
        now += 10.0
        _take_all(turns)
        turns.leave("busy", "busy", 0.03)
    now += 600.0
    turns.add("other", 0)
    for number in range(20):
        turns.add("busy", number)
        turns.add("other", number)
    taken = []
    for _ in range(1_000):
        now += 0.01
        taken += _take_all(turns)

    assert sum(tenant == "busy" for tenant, _ in taken) == 1
    assert sum(tenant == "other" for tenant, _ in taken) == 8


def test_the_tenant_that_a_request_proves_to_be_of_pays_for_it() -> None:
    """Not those whose tokens are not known yet: one of them may go on at once."""
    now = 0.0
    turns = Turns[int](16, lambda: True, lambda: now)
    for number in range(8):
        turns.add(None, number)
    assert len(_take_all(turns)) == 8
    for _ in range(8):
        turns.leave(None, "busy", 0.1)
    turns.add(None, 8)
    turns.add("busy", 0)

    assert _take_all(turns) == [(None, 8)]
    now += 10.0
    assert _take_all(turns) == [("busy", 0)]


@pytest.mark.parametrize("tenant", ["only", None])
def test_a_single_tenant_has_all_threads(tenant: str | None) -> None:
    """And no bound of requests that wait; also if no token is known."""
    turns = Turns[int](4, lambda: False)
    assert all(turns.add(tenant, number) for number in range(100))

    assert _take_all(turns) == [(tenant, number) for number in range(4)]
    turns.leave(tenant, tenant, 0.0)
    assert _take_all(turns) == [(tenant, 4)]


def test_few_requests_of_one_of_two_tenants_wait() -> None:
    """The others do not occupy the connections that all share."""
    turns = Turns[int](4, lambda: True)

    assert [turns.add("busy", number) for number in range(17)] == [*[True] * 16, False]
    assert turns.add("other", 1)


@pytest.fixture
def now() -> list[float]:
    """The time, which a test sets."""
    return [100.0]


@pytest.fixture
def turns(now: list[float]) -> Turns[int]:
    """Eight threads of several tenants."""
    return Turns[int](8, lambda: True, lambda: now[0])


def _run(turns: Turns[int], now: list[float], tenant: str, seconds: float) -> None:
    """Serve a request of *tenant* that takes *seconds* of CPU time and no more."""
    assert turns.add(tenant, 0)
    assert turns.take() == (tenant, 0)
    now[0] += seconds
    turns.leave(tenant, tenant, seconds)


@pytest.mark.parametrize("others", [0, 1, 3])
def test_tenants_share_the_processor(
    turns: Turns[int], now: list[float], others: int
) -> None:
    """One that never pauses has its part of ten seconds, and no more."""
    used, names = 0.0, ["busy", *(f"other-{number}" for number in range(others))]
    for name in names:
        turns.add(name, 0)
    while now[0] < 110:
        turn = turns.take()
        if turn is None:
            now[0] += max(turns.seconds_left() or 0.0, 1e-6)
            continue
        seconds = 0.01 if turn[0] == "busy" else 0.0
        now[0] += seconds
        used += seconds
        turns.leave(turn[0], turn[0], seconds)
        if turn[0] != "busy":
            now[0] += 0.001
        turns.add(*turn)

    assert used == pytest.approx(10 / (1 + others), rel=0.05)


def test_requests_start_one_after_another(turns: Turns[int], now: list[float]) -> None:
    """Another tenant's request never meets many that start at once."""
    for _ in range(50):
        _run(turns, now, "other", 0.0)
        _run(turns, now, "busy", 0.01)
        now[0] += 0.02
    for number in range(8):
        turns.add("busy", number)

    assert _take_all(turns) == [("busy", 0)]
    assert turns.seconds_left() == pytest.approx(0.02, rel=0.01)
    now[0] += 0.0201
    assert _take_all(turns) == [("busy", 1)]
    turns.leave("busy", "busy", 0.03)
    assert turns.seconds_left() == pytest.approx(0.06, rel=0.02)


def test_requests_that_wait_for_others_start_at_once(
    turns: Turns[int], now: list[float]
) -> None:
    """They take threads, and no CPU time."""
    for _ in range(50):
        _run(turns, now, "other", 0.0)
        _run(turns, now, "slow", 0.0)
    for number in range(8):
        turns.add("slow", number)

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
        turns.add("other", 0)
        assert turns.take() == ("other", 0)
    else:
        _run(turns, now, "other", seconds)
        now[0] -= seconds
    if is_back:
        turns.add("other", 1)
    now[0] += 2.1
    _run(turns, now, "busy", 0.3)
    turns.add("busy", 1)

    assert turns.seconds_left() == pytest.approx(left)


def test_a_single_tenant_is_never_delayed(now: list[float]) -> None:
    """Requests without a known token are not another one."""
    turns = Turns[int](8, lambda: False, lambda: now[0])
    turns.add(None, 0)
    for number in range(8):
        turns.add("only", number)
    assert turns.take() == (None, 0)
    assert turns.take() == ("only", 0)
    turns.leave("only", "only", 5.0)

    assert len(_take_all(turns)) == 7
    assert turns.seconds_left() is None


def _answer(environ: dict[str, Any], _: object) -> Iterable[bytes]:
    if environ["HTTP_AUTHORIZATION"] == "Bearer valid":
        environ[TENANT] = "shop"
    elif environ["HTTP_AUTHORIZATION"] == "Bearer of-no-tenant":
        environ[TENANT] = None
    return [b"answered"]


@pytest.mark.parametrize(
    ("head", "tenant"),
    [
        (b"\r\nAuthorization: Bearer valid\r\n\r\n", "shop"),
        (b"\r\nHost: h\r\nauthorization:Bearer valid \r\n", "shop"),
        (b"\r\nAuthorization: Bearer of-no-tenant\r\n\r\n", None),
        (b"\r\nAuthorization: Bearer unknown\r\n\r\n", None),
        (b"\r\nAuthorization: Bearer valid", None),
        (b"\r\nX-Authorization: Bearer valid\r\n\r\n", None),
        (b"", None),
    ],
)
def test_a_verified_token_has_its_tenant(head: bytes, tenant: str | None) -> None:
    """A token that no request was answered with has none."""
    tenants = TokenTenants(_answer)
    for token in ("valid", "of-no-tenant"):
        environ = {"HTTP_AUTHORIZATION": f"Bearer {token}"}
        assert tenants(environ, None) == [b"answered"]
        assert not tenants.are_several()

    assert tenants.find(read_token(b"GET / HTTP/1.1" + head)) == tenant


def test_the_oldest_token_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients may take a new token for each request."""
    monkeypatch.setattr("api.server.turns._TOKENS", 2)

    def answer(environ: dict[str, Any], _: object) -> Iterable[bytes]:
        environ[TENANT] = environ["HTTP_AUTHORIZATION"]
        return []

    tenants = TokenTenants(answer)
    for token in "abc":
        assert tenants.are_several() == (token == "c")
        tenants({"HTTP_AUTHORIZATION": token}, None)
    heads = [f"GET / HTTP/1.1\r\nAuthorization: {each}\r\n\r\n" for each in "abc"]

    assert [tenants.find(read_token(head.encode())) for head in heads] == [
        None,
        "b",
        "c",
    ]
