"""Which request gets a thread next."""

from collections.abc import Iterable
from typing import Any

import pytest

from api.request_context import TENANT
from api.server.turns import TokenTenants, Turns


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
    turns.leave("busy")
    assert _take_all(turns) == [("busy", 4)]


@pytest.mark.parametrize(("threads", "at_most"), [(1, 1), (2, 1), (4, 2), (16, 8)])
def test_one_of_two_tenants_has_half_of_the_threads(threads: int, at_most: int) -> None:
    """The other half is free for the other one."""
    turns = Turns[int](threads, lambda: True)
    for number in range(3 * threads):
        assert turns.add("busy", number)

    assert len(_take_all(turns)) == at_most


@pytest.mark.parametrize("tenant", ["only", None])
def test_a_single_tenant_has_all_threads(tenant: str | None) -> None:
    """And no bound of requests that wait; also if no token is known."""
    turns = Turns[int](4, lambda: False)
    assert all(turns.add(tenant, number) for number in range(100))

    assert _take_all(turns) == [(tenant, number) for number in range(4)]
    turns.leave(tenant)
    assert _take_all(turns) == [(tenant, 4)]


def test_few_requests_of_one_of_two_tenants_wait() -> None:
    """The others do not occupy the connections that all share."""
    turns = Turns[int](4, lambda: True)

    assert [turns.add("busy", number) for number in range(17)] == [*[True] * 16, False]
    assert turns.add("other", 1)


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

    assert tenants.find(b"GET / HTTP/1.1" + head) == tenant


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

    assert [tenants.find(head.encode()) for head in heads] == [None, "b", "c"]
