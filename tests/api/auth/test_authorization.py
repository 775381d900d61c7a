"""Access needs the right role, the right scope and an unused token, and is audited."""

import io
import itertools
import json
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from falcon.testing import Result, TestClient

from api.auth.authorization import Permission, RateLimits
from api.auth.dev_tokens import mint
from api.http.middleware import Resource
from api.principal import rate_limit_key
from backends.sql.database import Database
from backends.sql.shared_state import SharedTables
from signer.audit.log import AuditLog
from signer.config.settings import Settings
from tests.api.access_app import (
    Journal,
    Rotation,
    UnavailableCallers,
    audit_into,
    build,
)
from tests.api.live_server import Server, service_environ
from tests.api.support import (
    SettableClock,
    bearer,
    claims,
    header,
    lines,
    segment,
    signed,
)


ADMIN: dict[str, Any] = {"roles": ["admin"], "scope": "keys:rotate", "sub": "alice"}

_ids = itertools.count(1)


@pytest.fixture
def callers(sqlite_url: str) -> Iterator[SharedTables]:
    database = Database(sqlite_url, pool_size=4, timeout=5.0)
    yield SharedTables(database)
    database.close()


@pytest.fixture
def journal() -> Journal:
    return Journal()


@pytest.fixture
def audit(journal: Journal, clock: SettableClock) -> AuditLog:
    return audit_into(journal, clock)


@pytest.fixture
def client(callers: SharedTables, clock: SettableClock, audit: AuditLog) -> TestClient:
    return TestClient(build(callers, clock, audit=audit))


def _request(
    client: TestClient,
    path: str = "/rotation",
    method: str = "POST",
    **changes: Any,
) -> Result:
    """Send a request with a new token, unless *changes* have its ``jti``."""
    named = {"jti": f"token-{next(_ids)}"} | changes
    return client.simulate_request(
        method, path, headers=bearer(**named), remote_addr="192.0.2.1"
    )


_MERCHANT = {"roles": ["merchant"]}


@pytest.mark.parametrize(
    ("path", "token", "status"),
    [
        ("/refunds", _MERCHANT, 200),
        ("/refunds", _MERCHANT | {"scope": "refunds:write other"}, 200),
        ("/refunds", _MERCHANT | {"scope": "refunds:read"}, 403),
        ("/refunds", _MERCHANT | {"scope": "refunds:write2"}, 403),
        ("/refunds", _MERCHANT | {"scope": "Refunds:Write"}, 403),
        ("/refunds", ADMIN, 403),
        ("/refunds", {"roles": []}, 403),
        ("/rotation", ADMIN, 200),
        ("/rotation", ADMIN | {"roles": ["devops", "merchant"]}, 200),
        ("/rotation", ADMIN | {"scope": "keys:read keys:rotate"}, 200),
        ("/rotation", ADMIN | {"roles": ["merchant"]}, 403),
        ("/rotation", ADMIN | {"roles": []}, 403),
        ("/rotation", {"roles": ["admin"]}, 403),
        ("/rotation", ADMIN | {"scope": "keys:read"}, 403),
        ("/rotation", ADMIN | {"scope": "keys:rotate2"}, 403),
        ("/rotation", _MERCHANT, 403),
    ],
)
def test_role_and_scope_are_required(
    client: TestClient, path: str, token: dict[str, Any], status: int
) -> None:
    """H10: a scope is optional, except for administrative routes."""
    answer = _request(client, path, **token)

    assert answer.status_code == status
    if status == 403:
        assert answer.json["code"] == "forbidden"
        assert "insufficient_scope" in answer.headers["www-authenticate"]


def test_refusals_of_administrators_are_audited(
    client: TestClient, journal: Journal
) -> None:
    """H10: the record has the caller, the route and the reason."""
    _request(client, jti="jti-1", **ADMIN | {"roles": ["merchant"]})
    _request(client, jti="jti-2", roles=["admin"], sub="bob")
    client.simulate_post(
        "/rotation", headers={"X-Request-Id": "id-3"}, remote_addr="192.0.2.1"
    )
    _request(client, jti="jti-4", **ADMIN)
    _request(client, jti="jti-4", **ADMIN)
    _request(client, jti="jti-5", iss="https://other.example", **ADMIN)
    records = [record.fields for record in journal.records]

    assert [
        (each["actor"], each.get("token_id"), each["outcome"]) for each in records
    ] == [
        ("token:alice", "jti-1", "forbidden"),
        ("token:bob", "jti-2", "forbidden"),
        ("anonymous", None, "no-token"),
        ("token:alice", "jti-4", "token-replayed"),
        ("anonymous", None, "token-issuer"),
    ]
    assert records[2]["request_id"] == "id-3"
    assert {each["event"] for each in records} == {"admin-access-refused"}
    assert {each["operation"] for each in records} == {"administration"}
    assert all(
        each["details"] == {"route": "/rotation", "method": "POST", "peer": "192.0.2.1"}
        for each in records
    )


def test_refusals_of_refunds_are_not_audited(
    client: TestClient, journal: Journal
) -> None:
    statuses = [
        client.simulate_get("/refunds").status_code,
        _request(client, "/refunds", roles=[]).status_code,
    ]

    assert statuses == [401, 403]
    assert journal.records == []


def test_a_refusal_that_cannot_be_audited_is_503(
    client: TestClient, journal: Journal
) -> None:
    journal.fails = True
    answers = [
        _request(client, **ADMIN | {"roles": []}),
        client.simulate_post("/rotation"),
        client.simulate_get("/rotation"),
    ]

    assert [answer.status_code for answer in answers] == [503] * 3
    assert {answer.json["code"] for answer in answers} == {"store-unavailable"}
    assert _request(client, **ADMIN).status_code == 200


def test_a_token_changes_something_once(
    client: TestClient, callers: SharedTables, clock: SettableClock, audit: AuditLog
) -> None:
    """H9: the second change with a token is refused, by every process."""
    other = TestClient(build(callers, clock, audit=audit))
    first = _request(client, jti="once", **ADMIN)
    same = _request(client, jti="once", **ADMIN)
    elsewhere = _request(other, jti="once", **ADMIN)
    clock.advance(329)  # One second later it would be expired.
    late = client.simulate_post("/rotation", headers=bearer(jti="once", **ADMIN))

    assert first.status_code == 200
    assert [a.status_code for a in (same, elsewhere, late)] == [401] * 3
    assert same.json["code"] == "unauthenticated"


def test_only_an_accepted_change_uses_a_token_up(client: TestClient) -> None:
    """Neither reading, a refusal nor a request for a refund does."""
    refused = _request(client, jti="look", **ADMIN | {"scope": "keys:read"})
    looks = [_request(client, method=m, jti="look", **ADMIN) for m in ("GET", "HEAD")]
    change = _request(client, jti="look", **ADMIN)
    looks.append(_request(client, method="GET", jti="look", **ADMIN))
    paid = [
        _request(client, "/refunds", jti="many", roles=["merchant"]) for _ in range(3)
    ]

    assert refused.status_code == 403
    assert {each.status_code for each in (*looks, change, *paid)} == {200}


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_administration_needs_the_database(
    clock: SettableClock, audit: AuditLog, journal: Journal, method: str
) -> None:
    """Refunds do not."""
    client = TestClient(build(UnavailableCallers(), clock, audit=audit))
    answer = _request(client, method=method, **ADMIN)

    assert (answer.status_code, answer.json["code"]) == (503, "store-unavailable")
    assert client.simulate_post("/rotation").status_code == 503
    assert _request(client, "/refunds", roles=["merchant"]).status_code == 200
    assert client.simulate_get("/refunds").status_code == 401
    assert journal.records == []


_SPOOFED = {
    "X-Forwarded-For": "198.51.100.7",
    "X-Real-IP": "198.51.100.7",
    "Forwarded": "for=198.51.100.7",
    "X-Client-IP": "198.51.100.7",
    "True-Client-IP": "198.51.100.7",
    "X-Forwarded-Host": "hotwallet.example",
    "X-Original-URL": "/probe",
    "X-HTTP-Method-Override": "GET",
    "Host": "hotwallet.example",
}


def test_headers_do_not_change_the_peer(client: TestClient, journal: Journal) -> None:
    """H16: headers change neither the audited peer nor route nor method."""
    statuses = [
        client.simulate_post(
            "/rotation", headers={name: value}, remote_addr="203.0.113.9"
        ).status_code
        for name, value in _SPOOFED.items()
    ]
    peers = [record.fields["details"] for record in journal.records]

    assert set(statuses) == {401}
    assert peers == [
        {"route": "/rotation", "method": "POST", "peer": "203.0.113.9"}
    ] * len(_SPOOFED)


@pytest.mark.parametrize(
    ("socket", "forwarded", "peer"),
    [
        ("10.0.0.1", "198.51.100.7", "198.51.100.7"),
        ("10.0.0.1", "1.2.3.4, 198.51.100.7", "198.51.100.7"),
        ("10.0.0.1", "1.2.3.4,198.51.100.7 , 10.0.0.2", "198.51.100.7"),
        ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("10.0.0.1", "1.2.3.4, nonsense", "10.0.0.1"),
        ("10.0.0.1", "1.2.3.4, \x1b[31m, 10.0.0.2", "10.0.0.2"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "2001:DB8::0:1", "2001:db8::1"),
        ("10.0.0.1", "1.2.3.4, 198.51.100.7:51234", "198.51.100.7"),
        ("10.0.0.1", "1.2.3.4, 198.51.100.7:51234, 10.0.0.2:80", "198.51.100.7"),
        ("10.0.0.1", "[2001:db8::1]:443", "2001:db8::1"),
        ("10.0.0.1", "[2001:db8::1]", "2001:db8::1"),
        ("10.0.0.1", "[::ffff:198.51.100.7]:443", "198.51.100.7"),
        ("10.0.0.1", "1.2.3.4, [198.51.100.7]:443", "10.0.0.1"),
        ("10.0.0.1", "1.2.3.4, 198.51.100.7:", "10.0.0.1"),
        ("10.0.0.1", "1.2.3.4, 198.51.100.7:port", "10.0.0.1"),
        ("10.0.0.1", "1.2.3.4, [2001:db8::1]443", "10.0.0.1"),
        ("10.0.0.1", "1.2.3.4, []:443", "10.0.0.1"),
        ("10.0.0.1", "1.2.3.4, :443", "10.0.0.1"),
        ("203.0.113.9", "1.2.3.4", "203.0.113.9"),
        ("::ffff:203.0.113.9", "1.2.3.4", "203.0.113.9"),
        ("::ffff:10.0.0.1", "1.2.3.4", "1.2.3.4"),
        ("fe80::1%eth0", "1.2.3.4", "fe80::1"),
        ("", "1.2.3.4", "1.2.3.4"),
        ("", "", "unknown"),
    ],
)
def test_the_peer_comes_from_a_trusted_proxy(
    callers: SharedTables,
    clock: SettableClock,
    audit: AuditLog,
    journal: Journal,
    socket: str,
    forwarded: str,
    peer: str,
) -> None:
    """H16: only the address that a trusted proxy itself saw counts."""
    app = build(callers, clock, audit=audit, proxies=[ip_network("10.0.0.0/8")])
    TestClient(app).simulate_post(
        "/rotation", headers={"X-Forwarded-For": forwarded}, remote_addr=socket
    )

    assert [r.fields["details"]["peer"] for r in journal.records] == [peer]


@pytest.mark.parametrize("forwarded", [None, "1.2.3.4, unknown"])
def test_a_proxy_without_a_readable_address_is_logged_once(
    callers: SharedTables, clock: SettableClock, log: io.StringIO, forwarded: str | None
) -> None:
    """H16: its clients share one limit, so an operator must correct it."""
    client = TestClient(build(callers, clock, proxies=[ip_network("10.0.0.0/8")]))
    headers = {} if forwarded is None else {"X-Forwarded-For": forwarded}
    for _ in range(3):
        client.simulate_post("/rotation", headers=headers, remote_addr="10.0.0.1")
    client.simulate_post("/rotation", headers=headers, remote_addr="203.0.113.9")
    warnings = [event for event in lines(log) if event["level"] == "warning"]

    assert [(event["event"], event.get("proxy")) for event in warnings] == [
        ("forwarded-address-unreadable", "10.0.0.1"),
        ("proxy-bypassed", None),
    ]


def test_a_unix_socket_is_not_a_trusted_proxy_by_itself(
    client: TestClient, journal: Journal
) -> None:
    """H16: without trusted proxies, no header is trusted."""
    client.simulate_post(
        "/rotation", headers={"X-Forwarded-For": "1.2.3.4"}, remote_addr=""
    )

    assert [r.fields["details"]["peer"] for r in journal.records] == ["unknown"]


PROXIES = [ip_network("10.0.0.0/8"), ip_network("fd00::/8")]


@pytest.mark.parametrize(
    ("socket", "through"),
    [
        ("10.0.0.1", True),
        ("::ffff:10.0.0.1", True),
        ("fd00::7", True),
        ("", True),
        ("127.0.0.1", False),
        ("203.0.113.9", False),
        ("::1", False),
    ],
)
@pytest.mark.parametrize("path", ["/refunds", "/rotation"])
def test_requests_that_bypass_the_proxy_are_refused(
    callers: SharedTables, clock: SettableClock, path: str, socket: str, through: bool
) -> None:
    """H15: with trusted proxies, the token of a direct request is not examined."""
    client = TestClient(build(callers, clock, proxies=PROXIES))
    token = signed(
        header(), claims(roles=["merchant", "admin"], scope="refunds:write keys:rotate")
    )
    answer = client.simulate_get(
        path,
        headers={"Authorization": f"Bearer {token}", "X-Forwarded-For": "10.0.0.9"},
        remote_addr=socket,
    )

    assert answer.status_code == (200 if through else 421)
    if not through:
        assert answer.json["code"] == "not-through-proxy"
        assert "sub" not in answer.json


def test_bypassed_proxies_are_logged_and_limited(
    callers: SharedTables,
    clock: SettableClock,
    audit: AuditLog,
    journal: Journal,
    log: io.StringIO,
) -> None:
    """An administrative request is audited too."""
    limits = RateLimits.shared(callers, refused=2, clock=clock)
    app = build(callers, clock, audit=audit, limits=limits, proxies=PROXIES)
    statuses = [
        TestClient(app)
        .simulate_post("/rotation", remote_addr="203.0.113.9")
        .status_code
        for _ in range(4)
    ]
    events = [json.loads(line) for line in log.getvalue().splitlines()]
    bypassed = [event for event in events if event["event"] == "proxy-bypassed"]
    outcomes = [record.fields["outcome"] for record in journal.records]

    assert statuses == [421, 421, 429, 429]
    assert [event["peer"] for event in bypassed] == ["203.0.113.9"] * 3
    assert outcomes == ["not-through-proxy"] * 2 + ["too-many-requests"]


@pytest.mark.parametrize("path", ["/probe", "/numbers"])
def test_probes_and_metrics_may_bypass_the_proxy(
    callers: SharedTables, clock: SettableClock, path: str
) -> None:
    client = TestClient(build(callers, clock, proxies=PROXIES))
    token = signed(header(), claims(roles=["devops"]))
    answer = client.simulate_get(
        path, headers={"Authorization": f"Bearer {token}"}, remote_addr="203.0.113.9"
    )

    assert answer.status_code == 200


def test_addresses_of_one_customer_share_a_limit() -> None:
    """One limit per IPv4 address, and per /64 of IPv6."""
    assert rate_limit_key("2001:db8:1:2:3::1") == rate_limit_key("2001:db8:1:2:4::2")
    assert rate_limit_key("2001:db8:1:2::1") != rate_limit_key("2001:db8:1:3::1")
    assert rate_limit_key("192.0.2.1") != rate_limit_key("192.0.2.2")
    assert rate_limit_key("unknown") == "unknown"


@pytest.mark.parametrize(
    "text", ["a\r\nb", 'x", "actor": "root', "\x1b[2J", "\u2028", "ä", "\x00"]
)
def test_callers_cannot_inject_text_into_audit_or_log(
    client: TestClient, journal: Journal, log: io.StringIO, text: str
) -> None:
    """H18: text that a caller chooses is in no record and no event."""
    shown = text.encode().decode("latin-1")
    hidden = segment(claims() | {"sub": text})
    client.simulate_post(
        "/rotation",
        headers={
            "X-Request-Id": shown,
            "X-Forwarded-For": shown,
            "User-Agent": shown,
            "Authorization": f"Bearer {segment(header())}.{hidden}.AAAA",
        },
        query_string="a=" + "".join(f"%{byte:02x}" for byte in text.encode()),
    )
    denied = signed(header(), claims(roles=["admin"], sub="a", scope="x", client=text))
    client.simulate_post("/rotation", headers={"Authorization": f"Bearer {denied}"})

    assert len(journal.records) == 2
    assert all(record.body.isascii() for record in journal.records)
    assert all(text not in str(record.fields) for record in journal.records)
    assert all(text not in str(line) for line in lines(log))


def test_administrative_routes_must_have_role_and_scope() -> None:
    with pytest.raises(TypeError, match="Forgetful needs a role and a scope"):
        type(
            "Forgetful",
            (Resource,),
            {"required_role": "admin", "is_administrative": True},
        )
    with pytest.raises(TypeError, match="Careless needs a role and a scope"):
        type(
            "Careless",
            (Resource,),
            {"required_scope": "keys:rotate", "is_administrative": True},
        )
    assert Rotation.permission("POST") == Permission(
        frozenset({"admin", "devops"}), "keys:rotate", administrative=True
    )


@pytest.fixture
def environ(tmp_path: Path, sqlite_url: str) -> dict[str, str]:
    """The environment of servers with one ledger; ``tests/contract`` has each kind."""
    return service_environ(tmp_path) | {"DATABASE_URL": sqlite_url}


def _rotate(server: Server, token: str) -> int:
    return server.ask(
        b"POST /rotation HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n"
        b"Authorization: Bearer %s\r\n\r\n" % token.encode()
    ).status


def _mint(environ: dict[str, str]) -> str:
    return mint(
        Settings.from_env(environ),
        subject="alice",
        roles=["admin"],
        scopes=["keys:rotate"],
    )


def test_a_token_works_once_in_all_processes(environ: dict[str, str]) -> None:
    """H9: one of two servers accepts a token, and none after a restart."""
    app = "tests.api.access_app:get_app()"
    mine, other, fresh = (_mint(environ) for _ in range(3))
    with Server(environ, app) as first, Server(environ, app) as second:
        statuses = [_rotate(s, mine) for s in (first, second, first)]
        statuses += [_rotate(s, other) for s in (second, first)]
        stopped = first.stop(), second.stop()
        errors = first.errors() + second.errors()
    with Server(environ, app) as again:
        afterwards = [_rotate(again, token) for token in (mine, other, fresh)]

    assert statuses == [200, 401, 401, 200, 401]
    assert stopped == (0, 0)
    assert errors == ""
    assert afterwards == [401, 401, 200]
