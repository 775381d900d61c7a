"""Rate limits hold across processes, and cost few writes to the database."""

import secrets
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from falcon.testing import Result, TestClient
from sqlalchemy import event

from api.auth.authorization import RateLimit, RateLimits, RateLimitStatus
from api.auth.verification_keys import VerificationKey
from backends.sql.database import Database
from backends.sql.shared_state import SharedTables
from signer.errors import StoreUnavailableError
from tests.api.access_app import ONE_KEY, Journal, UnavailableCallers, audit_into, build
from tests.api.live_server import Server, service_environ
from tests.api.support import (
    NOW,
    OTHER_KEY,
    SettableClock,
    bearer,
    claims,
    header,
    signed,
)


PEER = "203.0.113.9"

_PAGE = Path(__file__).parents[3].joinpath("docs/reference/auth.md").read_text("utf-8")

ALICE: dict[str, Any] = {"roles": ["admin"], "scope": "keys:rotate", "sub": "alice"}

_FORGED = {
    "Authorization": f"Bearer {signed(header(), claims(), OTHER_KEY)}",
}


class Instance:
    """The application of one process over the shared database, with its costs."""

    def __init__(self, url: str, clock: SettableClock, **limits: Any) -> None:
        self.database = Database(url, pool_size=8, timeout=5.0)
        self.writes: list[str] = []
        self.verified = 0
        self.journal = Journal()
        callers = SharedTables(self.database)
        audit = audit_into(self.journal, clock)
        shared = RateLimits.shared(callers, clock=clock, **limits)
        self.client = TestClient(
            build(callers, clock, audit=audit, keys=self, limits=shared)
        )
        event.listen(
            self.database._process().engine, "before_cursor_execute", self._executed
        )

    def known(self) -> Iterable[VerificationKey]:
        return ONE_KEY.known()

    def find(self, kid: str | None) -> VerificationKey | None:
        """Return the key, and count a verification."""
        self.verified += 1
        return ONE_KEY.find(kid)

    def request(
        self,
        path: str = "/refunds",
        peer: str = PEER,
        headers: dict[str, str] | None = None,
        **changes: Any,
    ) -> Result:
        """Send a request from *peer*, with a good token unless *headers* are given."""
        return self.client.simulate_get(
            path, headers=headers or bearer(NOW, **changes), remote_addr=peer
        )

    def rotate(self, peer: str = PEER, jti: str | None = None) -> int:
        """Post as alice, with a new token unless *jti* is given."""
        token = bearer(NOW, **ALICE, jti=jti or secrets.token_hex())
        return self.client.simulate_post(
            "/rotation", headers=token, remote_addr=peer
        ).status_code

    def _executed(self, *args: Any) -> None:
        statement = str(args[2])
        if statement.startswith(("INSERT", "UPDATE")):
            self.writes.append(statement)


@pytest.fixture
def pair(sqlite_url: str, clock: SettableClock) -> Iterator[list[Instance]]:
    """
    Two instances that share a database.

    ``tests/contract/test_callers.py`` has its counters, on each kind of database.
    """
    clock.now = NOW.replace(second=10)
    pair = [Instance(sqlite_url, clock) for _ in range(2)]
    yield pair
    for instance in pair:
        instance.database.close()


def test_limits_invalid_tokens_of_one_peer(pair: list[Instance]) -> None:
    """H17: of 1,000 requests to two instances, 60 are verified."""
    answers = [pair[n % 2].request("/rotation", headers=_FORGED) for n in range(1000)]
    statuses = [answer.status_code for answer in answers]
    records = [each.fields for one in pair for each in one.journal.records]

    assert statuses == [401] * 60 + [429] * 940
    # Each audit record is counted, too.
    assert sum(len(one.writes) for one in pair) <= 62 + len(records)
    assert sum(one.verified for one in pair) == 62
    assert answers[-1].headers["retry-after"] == "50"
    assert answers[-1].json["code"] == "too-many-requests"
    assert 30 < len(records) <= 61
    assert [r["outcome"] for r in records].count("too-many-requests") <= 1


def test_another_process_learns_of_the_limit_at_its_next_refusal(
    pair: list[Instance],
) -> None:
    """Until then it answers good tokens: the check asks no database.  The page says."""
    for _ in range(61):
        pair[0].request(headers=_FORGED)

    known = [each.request().status_code for each in pair]
    refused = pair[1].request(headers=_FORGED).status_code

    assert known == [429, 200]
    assert (refused, pair[1].request().status_code) == (429, 429)
    assert "Each process notices it at its own next refusal" in _PAGE


def test_limits_concurrent_invalid_tokens(pair: list[Instance]) -> None:
    """H17: threads of both instances let no more than the limit through."""
    with ThreadPoolExecutor(8) as pool:
        statuses = list(
            pool.map(
                lambda n: pair[n % 2].request("/rotation", headers=_FORGED).status_code,
                range(300),
            )
        )
    outcomes = [r.fields["outcome"] for one in pair for r in one.journal.records]

    assert sorted(statuses) == [401] * 60 + [429] * 240
    # Each thread may be past the check in either instance at the 60th refusal, and take
    # permits for audit records at the same time as the others.
    assert sum(len(one.writes) for one in pair) <= 2 * (60 + 4 * 8)
    assert sorted(outcomes) == ["token-signature"] * 60 + ["too-many-requests"]


def test_a_window_ends_after_retry_after(
    pair: list[Instance], clock: SettableClock
) -> None:
    for _ in range(61):
        last = pair[0].request(headers=_FORGED)
    clock.advance(int(last.headers["retry-after"]) - 1)
    before = pair[0].request(headers=_FORGED).status_code
    clock.advance(1)
    after = pair[0].request(headers=_FORGED).status_code

    assert (last.status_code, before, after) == (429, 429, 401)


def test_the_limit_is_per_peer(pair: list[Instance]) -> None:
    """Other peers are served, and the probe is served to the limited peer too."""
    for _ in range(61):
        pair[0].request(peer="2001:db8:0:1::1", headers=_FORGED)

    assert pair[0].request(peer="2001:db8:0:1::2").status_code == 429
    assert pair[1].request(peer="2001:db8:0:2::1", headers=_FORGED).status_code == 401
    assert pair[0].request(peer=PEER).status_code == 200
    assert pair[0].request("/probe", peer="2001:db8:0:1::1").status_code == 200


def test_limits_forbidden_requests(pair: list[Instance]) -> None:
    """H17: 403 is a refusal like 401."""
    statuses = [pair[n % 2].request(roles=[]).status_code for n in range(63)]

    assert statuses == [403] * 60 + [429] * 3


def test_limits_administrators(pair: list[Instance]) -> None:
    """
    Each subject may read 300 times a minute, from all addresses.

    Ten tabs of the console may be loaded again every two seconds.
    """
    statuses = [
        pair[n % 2].request("/rotation", **ALICE).status_code for n in range(310)
    ]
    other = pair[0].request("/rotation", **ALICE | {"sub": "bob"})
    records = [r.fields for one in pair for r in one.journal.records]

    assert statuses == [200] * 300 + [429] * 10
    assert other.status_code == 200
    assert [(r["actor"], r["outcome"]) for r in records] == [
        ("token:alice", "too-many-requests")
    ]


def test_replayed_tokens_count_for_the_peer_only(pair: list[Instance]) -> None:
    """A client that replays a used token does not lock out the token's subject."""
    jti = secrets.token_hex()
    used = pair[0].rotate(jti=jti)
    replays = [pair[n % 2].rotate("198.51.100.1", jti) for n in range(70)]
    own = [pair[n % 2].rotate() for n in range(30)]

    assert used == 200
    assert replays == [401] * 60 + [429] * 10
    assert own == [200] * 29 + [429]


def test_reads_and_changes_are_counted_separately(pair: list[Instance]) -> None:
    """A used token can still read; reads leave the limit of changes alone."""
    jti = secrets.token_hex()
    used = pair[0].rotate(jti=jti)
    reads = [pair[n % 2].request("/rotation", **ALICE, jti=jti) for n in range(310)]
    changes = [pair[n % 2].rotate() for n in range(30)]

    assert [a.status_code for a in reads] == [200] * 300 + [429] * 10
    assert [used, *changes] == [200] * 30 + [429]


def test_accepted_requests_write_nothing(pair: list[Instance]) -> None:
    """That is, without a limit for clients."""
    statuses = {pair[n % 2].request().status_code for n in range(100)}

    assert statuses == {200}
    assert [one.writes for one in pair] == [[], []]


def test_the_limit_of_a_client_costs_one_write_in_ten_requests(
    sqlite_url: str, clock: SettableClock
) -> None:
    """The limit is exact within one process."""
    one = Instance(sqlite_url, clock, client=105)
    statuses = [one.request().status_code for _ in range(120)]
    other = one.request(sub="gateway-2").status_code
    one.database.close()

    assert statuses == [200] * 105 + [429] * 15
    assert other == 200
    assert len(one.writes) <= 12 + 1


def test_two_processes_share_the_limit_of_a_client(
    sqlite_url: str, clock: SettableClock
) -> None:
    pair = [Instance(sqlite_url, clock, client=100) for _ in range(2)]
    statuses = [pair[n % 2].request().status_code for n in range(160)]
    for one in pair:
        one.database.close()

    assert statuses.count(200) == 100
    assert statuses.count(429) == 60


def test_each_process_counts_while_the_database_is_down(clock: SettableClock) -> None:
    client = TestClient(build(UnavailableCallers(), clock))
    statuses = [
        client.simulate_get("/refunds", headers=_FORGED).status_code for _ in range(70)
    ]

    assert statuses == [401] * 60 + [429] * 10


class IntermittentCallers(SharedTables):
    """Counters of callers whose database may be down."""

    def __init__(self) -> None:
        self.up, self.asked = True, 0

    def use_token(self, *args: object) -> bool:
        return True

    def count(self, bucket: str, period: int, amount: int = 1) -> int:
        self.asked += 1
        if not self.up:
            raise StoreUnavailableError("no answer")
        return self.asked


def test_skips_a_database_that_is_down_for_five_seconds(clock: SettableClock) -> None:
    """Unless the caller requires the shared count."""
    callers, now = IntermittentCallers(), 0.0
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


def test_buckets_contain_neither_addresses_nor_subjects(pair: list[Instance]) -> None:
    pair[0].request(headers=_FORGED)
    pair[0].request("/rotation", sub="s" * 128, roles=["admin"], scope="keys:rotate")
    buckets = pair[0].database.run(
        lambda c: c.exec_driver_sql("SELECT bucket FROM rate_counters").scalars().all()
    )

    assert sorted(bucket.partition(":")[0] for bucket in buckets) == [
        "reading",
        "refused",
    ]
    assert all(len(bucket) <= 48 for bucket in buckets)
    assert not any(PEER in bucket or "sss" in bucket for bucket in buckets)


def test_counts_survive_a_clock_that_goes_back(clock: SettableClock) -> None:
    """A repeated window goes on with its count from the database."""
    callers = IntermittentCallers()
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
    """H17: four worker processes of two servers refuse no more than one would."""
    processes = {"DATABASE_URL": database_url, "WEB_CONCURRENCY": "2"}
    environ = service_environ(tmp_path) | processes
    request = (
        b"GET /refunds HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        b"Authorization: Bearer a.b.c\r\n\r\n"
    )
    app = "tests.api.access_app:get_app()"
    database = Database(database_url, pool_size=1, timeout=5.0)
    database.write(lambda c: c.exec_driver_sql("DELETE FROM rate_counters").rowcount)
    database.close()
    with (
        Server(environ, app) as one,
        Server(environ, app) as other,
        ThreadPoolExecutor(4) as pool,
    ):
        answers = list(pool.map(lambda n: (one, other)[n % 2].ask(request), range(200)))

    statuses = [answer.status for answer in answers]
    waits = {int(a.headers["retry-after"]) for a in answers if a.status == 429}
    assert sorted(statuses) == [401] * 60 + [429] * 140
    assert all(1 <= wait <= 60 for wait in waits)
