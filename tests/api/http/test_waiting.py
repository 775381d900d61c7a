"""How many requests may wait at the same time."""

from contextlib import ExitStack

import pytest

from api.http.waiting import WaitingRequests
from signer.config.tenants import Tenant, TenantRegistry


def _admitted(waiting: WaitingRequests, tenants: list[str]) -> list[str]:
    """Return the tenants whose requests may wait, of requests at the same time."""
    with ExitStack() as stack:
        answers = [stack.enter_context(waiting.admit(each)) for each in tenants]
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


def test_a_request_that_fails_stops_waiting() -> None:
    waiting = WaitingRequests(2, TenantRegistry())

    def fail() -> None:
        with waiting.admit("alice") as may_wait:
            raise ValueError(f"may wait: {may_wait}")

    for _ in range(2):
        with pytest.raises(ValueError, match="may wait: True"):
            fail()
