"""Too many: told apart from enough, by all processes together, and cheaply."""

import secrets
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from falcon.testing import Result, TestClient
from sqlalchemy import event

from api.auth.dev_tokens import provide_signing_key
from api.auth.rate_limits import RateLimit, RateLimits, RateLimitStatus
from api.auth.verification_keys import VerificationKey
from backends.sql.callers import CallerTables
from backends.sql.database import Database
from signer.errors import StoreUnavailableError
from tests.api.access_app import ONE_KEY, Absent, Journal, audit_into, build
from tests.api.live_server import Server
from tests.api.support import (
    NOW,
    STRANGER,
    SettableClock,
    bearer,
    claims,
    header,
    signed,
)


PEER = "203.0.113.9"

ALICE: dict[str, Any] = {"roles": ["admin"], "scope": "keys:rotate", "sub": "alice"}

_FORGED = {
    "Authorization": f"Bearer {signed(header(), claims(), STRANGER)}",
}


class Instance:
    """One process's application over the shared database, and what it cost."""

    def __init__(self, url: str, clock: SettableClock, **limits: int) -> None:
        self.database = Database(url, pool_size=8, timeout=5.0)
        self.writes: list[str] = []
        self.verified = 0
        self.journal = Journal()
        callers = CallerTables(self.database)
        audit = audit_into(self.journal, clock)
        shared = RateLimits.shared(callers, clock=clock, **limits)
        self.client = TestClient(
            build(callers, clock, audit=audit, keys=self, limits=shared)
        )
        event.listen(
            self.database._process().engine, "before_cursor_execute", self._executed
        )

    def known(self) -> Iterable[VerificationKey]:
        """Return the one key."""
        return ONE_KEY.known()

    def find(self, kid: str | None) -> VerificationKey | None:
        """Return the one key, and count that a signature is being verified."""
        self.verified += 1
        return ONE_KEY.find(kid)

    def ask(
        self,
        path: str = "/refunds",
        peer: str = PEER,
        headers: dict[str, str] | None = None,
        **changes: Any,
    ) -> Result:
        """Ask from *peer*, with a good token unless others are given."""
        return self.client.simulate_get(
            path, headers=headers or bearer(NOW, **changes), remote_addr=peer
        )

    def rotate(self, peer: str = PEER, jti: str | None = None) -> int:
        """Change something as alice, with a new token unless there is *jti*."""
        token = bearer(NOW, **ALICE, jti=jti or secrets.token_hex())
        return self.client.simulate_post(
            "/rotation", headers=token, remote_addr=peer
        ).status_code

    def _executed(self, *args: Any) -> None:
        statement = str(args[2])
        if statement.startswith(("INSERT", "UPDATE")):
            self.writes.append(statement)


@pytest.fixture
def pair(database_url: str, clock: SettableClock) -> Iterator[list[Instance]]:
    """Two instances that share a database, of each kind in turn."""
    # PostgreSQL's tables are everybody's: a minute of its own keeps counts apart.
    clock.now = NOW.replace(second=10)
    pair = [Instance(database_url, clock) for _ in range(2)]
    _empty(pair[0].database)
    yield pair
    for instance in pair:
        instance.database.close()


def _empty(database: Database) -> None:
    database.write(lambda c: c.exec_driver_sql("DELETE FROM attempts").rowcount)


def test_a_flood_of_bad_tokens(pair: list[Instance]) -> None:
    """H17: of 1,000 from one peer, over two instances, 60 are looked at."""
    answers = [
        pair[n % 2].ask("/rotation" if n % 3 else "/refunds", headers=_FORGED)
        for n in range(1000)
    ]
    statuses = [answer.status_code for answer in answers]
    records = [each.fields for one in pair for each in one.journal.records]

    assert statuses == [401] * 60 + [429] * 940
    assert sum(len(one.writes) for one in pair) == 62
    assert sum(one.verified for one in pair) == 62
    assert answers[-1].headers["retry-after"] == "50"
    assert answers[-1].json["code"] == "too-many-requests"
    assert 30 < len(records) <= 61
    assert [r["outcome"] for r in records].count("too-many-requests") <= 1


def test_a_flood_at_once(pair: list[Instance]) -> None:
    """H17: threads of both instances let no more than the limit through."""
    with ThreadPoolExecutor(8) as pool:
        statuses = list(
            pool.map(
                lambda n: pair[n % 2].ask("/rotation", headers=_FORGED).status_code,
                range(300),
            )
        )
    outcomes = [r.fields["outcome"] for one in pair for r in one.journal.records]

    assert sorted(statuses) == [401] * 60 + [429] * 240
    # Each thread may be on its way in either instance when the 60th is counted.
    assert sum(len(one.writes) for one in pair) <= 60 + 2 * 8
    assert sorted(outcomes) == ["token-signature"] * 60 + ["too-many-requests"]


def test_a_window_ends(pair: list[Instance], clock: SettableClock) -> None:
    """Whoever waits as long as ``Retry-After`` says begins anew."""
    for _ in range(61):
        last = pair[0].ask(headers=_FORGED)
    clock.advance(int(last.headers["retry-after"]) - 1)
    before = pair[0].ask(headers=_FORGED).status_code
    clock.advance(1)
    after = pair[0].ask(headers=_FORGED).status_code

    assert (last.status_code, before, after) == (429, 429, 401)


def test_others_are_not_concerned(pair: list[Instance]) -> None:
    """A flood costs its peer the service, and nobody else; health is open."""
    for _ in range(61):
        pair[0].ask(peer="2001:db8:0:1::1", headers=_FORGED)

    assert pair[0].ask(peer="2001:db8:0:1::2").status_code == 429
    assert pair[1].ask(peer="2001:db8:0:2::1", headers=_FORGED).status_code == 401
    assert pair[0].ask(peer=PEER).status_code == 200
    assert pair[0].ask("/probe", peer="2001:db8:0:1::1").status_code == 200


def test_a_missing_role_counts_too(pair: list[Instance]) -> None:
    """H17: 403 is a refusal like 401."""
    statuses = [pair[n % 2].ask(roles=[]).status_code for n in range(63)]

    assert statuses == [403] * 60 + [429] * 3


def test_spoofed_headers_make_no_new_peer(pair: list[Instance]) -> None:
    """H16: who invents a new origin with every request is counted as one peer."""
    statuses = [
        pair[0].ask(headers=_FORGED | {"X-Forwarded-For": f"198.51.100.{n}"})
        for n in range(80)
    ]

    assert [a.status_code for a in statuses] == [401] * 60 + [429] * 20


def test_administrators_are_limited(pair: list[Instance]) -> None:
    """Each subject has 30 administrative calls a minute, wherever it asks."""
    statuses = [pair[n % 2].ask("/rotation", **ALICE).status_code for n in range(40)]
    other = pair[0].ask("/rotation", **ALICE | {"sub": "bob"})
    records = [r.fields for one in pair for r in one.journal.records]

    assert statuses == [200] * 30 + [429] * 10
    assert other.status_code == 200
    assert [(r["actor"], r["outcome"]) for r in records] == [
        ("alice", "too-many-requests")
    ]


def test_replays_cost_their_peer_alone(pair: list[Instance]) -> None:
    """Who found a token that is used up keeps neither its subject nor others out."""
    jti = secrets.token_hex()
    used = pair[0].rotate(jti=jti)
    replays = [pair[n % 2].rotate("198.51.100.1", jti) for n in range(70)]
    hers = [pair[n % 2].rotate() for n in range(30)]

    assert used == 200
    assert replays == [401] * 60 + [429] * 10
    assert hers == [200] * 29 + [429]


def test_looks_are_counted_apart(pair: list[Instance]) -> None:
    """A used token still looks; however often it does, changes remain possible."""
    jti = secrets.token_hex()
    used = pair[0].rotate(jti=jti)
    looks = [pair[n % 2].ask("/rotation", **ALICE, jti=jti) for n in range(40)]

    assert [a.status_code for a in looks] == [200] * 30 + [429] * 10
    assert [used, pair[1].rotate()] == [200, 200]


def test_good_refunds_cost_no_write(pair: list[Instance]) -> None:
    """A request that is let in writes nothing, where clients have no limit."""
    statuses = {pair[n % 2].ask().status_code for n in range(100)}

    assert statuses == {200}
    assert [one.writes for one in pair] == [[], []]


def test_clients_take_permits_in_batches(
    database_url: str, clock: SettableClock
) -> None:
    """A client's limit holds exactly in one process, for a write in ten requests."""
    one = Instance(database_url, clock, client=105)
    _empty(one.database)
    statuses = [one.ask().status_code for _ in range(120)]
    other = one.ask(sub="gateway-2").status_code
    one.database.close()

    assert statuses == [200] * 105 + [429] * 15
    assert other == 200
    assert len(one.writes) <= 12 + 1


def test_two_processes_share_a_client(database_url: str, clock: SettableClock) -> None:
    """What both let through is the limit, since permits are taken and not guessed."""
    pair = [Instance(database_url, clock, client=100) for _ in range(2)]
    _empty(pair[0].database)
    statuses = [pair[n % 2].ask().status_code for n in range(160)]
    for one in pair:
        one.database.close()

    assert statuses.count(200) == 100
    assert statuses.count(429) == 60


def test_without_the_database_each_counts_alone(clock: SettableClock) -> None:
    """While nothing is shared, a process still knows what it has seen itself."""
    client = TestClient(build(Absent(), clock))
    statuses = [
        client.simulate_get("/refunds", headers=_FORGED).status_code for _ in range(70)
    ]

    assert statuses == [401] * 60 + [429] * 10


class Fragile:
    """Callers whose database comes and goes."""

    def __init__(self) -> None:
        self.up, self.asked = True, 0

    def use_token(self, *args: object) -> bool:
        """Believe everybody."""
        return True

    def count(self, bucket: str, period: int, amount: int = 1) -> int:
        """Count, or fail."""
        self.asked += 1
        if not self.up:
            raise StoreUnavailableError("no answer")
        return self.asked


def test_a_database_that_hangs_is_asked_now_and_then(clock: SettableClock) -> None:
    """Who can do without does not wait for it again for five seconds."""
    callers, now = Fragile(), 0.0
    limit = RateLimit("refused", 60, callers, clock=clock, timer=lambda: now)
    callers.up = False
    for _ in range(10):
        limit.take("a")
    asked = callers.asked
    with pytest.raises(StoreUnavailableError):
        limit.take("a", require_store=True)
    now, callers.up = 5.0, True
    limit.take("a")

    assert asked == 1
    assert callers.asked == 3


def test_buckets_hold_no_secrets(pair: list[Instance]) -> None:
    """The database learns that somebody asked, and not who, nor with what."""
    pair[0].ask(headers=_FORGED)
    pair[0].ask("/rotation", sub="s" * 128, roles=["admin"], scope="keys:rotate")
    buckets = pair[0].database.run(
        lambda c: c.exec_driver_sql("SELECT bucket FROM attempts").scalars().all()
    )

    assert sorted(bucket.partition(":")[0] for bucket in buckets) == [
        "administration",
        "refused",
    ]
    assert all(len(bucket) <= 48 for bucket in buckets)
    assert not any(PEER in bucket or "sss" in bucket for bucket in buckets)


def test_a_clock_that_goes_back_forgets_nobody(clock: SettableClock) -> None:
    """A window that returns is counted on where it was left, in the database."""
    callers = Fragile()
    limit = RateLimit("refused", 2, callers, clock=clock, timer=time.monotonic)
    first = [limit.take("a") for _ in range(4)]
    clock.advance(60)
    over = limit.is_over("a")
    clock.advance(-60)

    assert first == [RateLimitStatus.WITHIN] * 2 + [
        RateLimitStatus.FIRST_OVER,
        RateLimitStatus.OVER,
    ]
    assert not over
    assert limit.take("a") is RateLimitStatus.OVER


def test_workers_share_a_limit(tmp_path: Path, database_url: str) -> None:
    """H17: four worker processes on two servers refuse no more than one would."""
    provide_signing_key(tmp_path / "private.pem", tmp_path / "public.pem")
    environ = {
        "APP_ENV": "test",
        "HOTWALLET_HOME": str(tmp_path),
        "DATABASE_URL": database_url,
        "JWT_PUBLIC_KEY_FILE": str(tmp_path / "public.pem"),
        "WEB_CONCURRENCY": "2",
    }
    request = (
        b"GET /refunds HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        b"Authorization: Bearer a.b.c\r\n\r\n"
    )
    app = "tests.api.access_app:get_app()"
    with Server(environ, app) as one, Server(environ, app) as other:
        _until_a_window_begins(one, other)
        with ThreadPoolExecutor(4) as pool:
            answers = list(
                pool.map(lambda n: (one, other)[n % 2].ask(request), range(200))
            )

    statuses = [answer.status for answer in answers]
    waits = {int(a.headers["retry-after"]) for a in answers if a.status == 429}
    assert sorted(statuses) == [401] * 60 + [429] * 140
    assert all(1 <= wait <= 60 for wait in waits)


def _until_a_window_begins(*servers: Server) -> None:
    """Wait until all answer, and then until what follows falls in one minute."""
    for server in servers:
        server.ask(b"GET /probe HTTP/1.1\r\nHost: localhost\r\n\r\n")
    left = 60 - time.time() % 60
    if left < 15:
        time.sleep(left)
