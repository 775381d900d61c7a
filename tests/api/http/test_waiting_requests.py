"""How many requests may wait at the same time."""

from contextlib import ExitStack, suppress

import pytest

from api.http.concurrency import WaitingRequests
from signer.config.tenants import Tenant, TenantRegistry
from signer.errors import RateLimitedError


def _admitted(waiting: WaitingRequests, tenants: list[str]) -> list[str]:
    """Return the tenants whose requests may wait long, of those at the same time."""
    with ExitStack() as stack:
        answers = [stack.enter_context(waiting.admit_long(each)) for each in tenants]
    return [each for each, may in zip(tenants, answers, strict=True) if may]


@pytest.mark.parametrize(
    ("threads", "of_one", "in_total"),
    [(1, 0, 0), (2, 1, 1), (3, 1, 1), (4, 1, 2), (6, 2, 3), (8, 2, 4), (64, 16, 32)],
)
def test_half_of_the_threads_wait(threads: int, of_one: int, in_total: int) -> None:
    """One tenant has half of those; all have them again when the requests end."""
    waiting = WaitingRequests(threads, TenantRegistry())

    for _ in range(2):
        assert len(_admitted(waiting, ["mallory"] * 70)) == of_one
        assert len(_admitted(waiting, [str(n) for n in range(70)])) == in_total


def test_a_tenant_takes_no_other_tenants_turn() -> None:
    waiting = WaitingRequests(8, TenantRegistry())

    assert _admitted(waiting, [*["mallory"] * 9, "alice", "bob", "carol"]) == [
        "mallory",
        "mallory",
        "alice",
        "bob",
    ]


def test_a_tenant_may_have_a_lower_limit() -> None:
    """A higher one has no effect, since the threads are shared."""
    tenants = {
        name: Tenant(subjects=(name,), max_waiting_requests=limit)
        for name, limit in (("low", 1), ("high", 99))
    }
    waiting = WaitingRequests(12, TenantRegistry(tenants))

    assert _admitted(waiting, ["low"] * 9) == ["low"]
    assert _admitted(waiting, ["high"] * 9) == ["high"] * 3


@pytest.mark.parametrize("threads", [1, 2, 3, 4, 64])
def test_one_thread_never_waits(threads: int) -> None:
    """Requests that wait for a worker take all other threads, but not the last."""
    waiting = WaitingRequests(threads, TenantRegistry())

    for _ in range(2):
        with ExitStack() as stack:
            answers = [stack.enter_context(waiting.admit("alice")) for _ in range(70)]
        assert answers == [True] * (threads - 1) + [False] * (71 - threads)


@pytest.mark.parametrize("threads", [2, 4, 8, 64])
def test_both_ways_of_waiting_share_the_threads(threads: int) -> None:
    """A request that waits long leaves fewer threads to wait for a worker."""
    waiting = WaitingRequests(threads, TenantRegistry())
    with ExitStack() as stack:
        names = [str(number) for number in range(70)]
        long = [stack.enter_context(waiting.admit_long(each)) for each in names]
        short = [stack.enter_context(waiting.admit(each)) for each in names]

    assert (sum(long), sum(short)) == (threads // 2, threads - 1 - threads // 2)
    with ExitStack() as stack:
        short = [stack.enter_context(waiting.admit(each)) for each in names]
        long = [stack.enter_context(waiting.admit_long(each)) for each in names]

    assert (sum(short), sum(long)) == (threads - 1, 0)


def test_a_request_that_may_not_wait_takes_no_place() -> None:
    """Also one that would be within its own limit while the threads are taken."""
    waiting = WaitingRequests(2, TenantRegistry())
    with waiting.admit("alice"):
        for _ in range(3):
            with waiting.admit_long("bob") as may_wait:
                assert not may_wait
    with waiting.admit_long("bob") as may_wait:
        assert may_wait


@pytest.mark.parametrize("way", ["admit", "admit_long"])
def test_a_request_that_fails_stops_waiting(way: str) -> None:
    waiting = WaitingRequests(2, TenantRegistry())

    def fail() -> None:
        with getattr(waiting, way)("alice") as may_wait:
            raise ValueError(f"may wait: {may_wait}")

    for _ in range(2):
        with pytest.raises(ValueError, match="may wait: True"):
            fail()


def _asking(waiting: WaitingRequests, tenants: list[str]) -> list[str]:
    """Return the tenants whose requests may ask nodes, of those at the same time."""
    admitted = []
    with ExitStack() as stack:
        for each in tenants:
            with suppress(RateLimitedError):
                stack.enter_context(waiting.asking_nodes(each))
                admitted.append(each)
    return admitted


@pytest.mark.parametrize(
    ("threads", "of_one", "in_total"),
    [(1, 1, 1), (2, 1, 1), (3, 1, 2), (4, 2, 3), (16, 8, 12), (64, 32, 48)],
)
def test_a_quarter_of_the_threads_asks_no_node(
    threads: int, of_one: int, in_total: int
) -> None:
    """So readiness and other tenants have threads while nodes are slow."""
    waiting = WaitingRequests(threads, TenantRegistry())

    for _ in range(2):
        assert len(_asking(waiting, ["mallory"] * 70)) == of_one
        assert len(_asking(waiting, [str(n) for n in range(70)])) == in_total


def test_waiting_for_nodes_and_workers_leaves_one_thread() -> None:
    waiting = WaitingRequests(4, TenantRegistry())
    with waiting.admit("alice"), waiting.admit("bob"):
        assert _asking(waiting, ["carol", "dave"]) == ["carol"]
        with waiting.asking_nodes("carol"), waiting.admit("dave") as may_wait:
            assert not may_wait
