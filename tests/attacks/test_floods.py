"""Many requests that are refused, with no token or with a merchant's."""

from collections.abc import Iterator

import pytest
from falcon.testing import TestClient

from backends.sql.database import Database
from backends.sql.shared_state import SharedTables
from signer.audit.actions import NOT_AUDITED
from tests.api.access_app import Journal, audit_into, build
from tests.api.support import NOW, SettableClock, bearer


@pytest.fixture
def journal() -> Journal:
    return Journal()


@pytest.fixture
def client(database_url: str, journal: Journal) -> Iterator[TestClient]:
    """Return a client of the routes, with the real rate limits and database."""
    clock = SettableClock()
    database = Database(database_url, pool_size=4, timeout=5.0)
    database.write(lambda c: c.exec_driver_sql("DELETE FROM rate_counters").rowcount)
    app = build(SharedTables(database), clock, audit=audit_into(journal, clock))
    yield TestClient(app)
    database.close()


def _statuses(
    client: TestClient, path: str, peers: list[str], headers: dict[str, str] | None
) -> list[int]:
    return [
        client.simulate_get(path, headers=headers, remote_addr=peer).status_code
        for peer in peers
    ]


def test_requests_without_a_token_write_few_records(
    client: TestClient, journal: Journal
) -> None:
    """186 administrative calls from three addresses write 121 audit records."""
    peers = [f"203.0.113.{number % 3}" for number in range(186)]
    statuses = _statuses(client, "/rotation", peers, None)
    outcomes = [record.fields["outcome"] for record in journal.records]

    assert set(statuses) == {401, 429}
    assert len(outcomes) == 121
    assert outcomes[-1] == NOT_AUDITED
    assert outcomes.count(NOT_AUDITED) == 1


def test_a_flood_hides_no_refusal_of_an_administrator(
    client: TestClient, journal: Journal
) -> None:
    """Records are counted per subject: a thief's attempts are still audited."""
    peers = [f"203.0.113.{number % 40}" for number in range(200)]
    _statuses(client, "/rotation", peers, None)
    thief = bearer(NOW, sub="mallory", roles=["merchant"], scope="keys:rotate")
    statuses = _statuses(client, "/rotation", ["198.51.100.1"], thief)

    assert statuses == [403]
    assert journal.records[-1].fields["actor"] == "token:mallory"
    assert journal.records[-1].fields["outcome"] == "forbidden"


def test_refusals_elsewhere_hide_no_administrative_ones(
    client: TestClient, journal: Journal
) -> None:
    """A merchant's token that is over its limit on refunds is still audited."""
    peer = "203.0.113.9"
    mallory = bearer(NOW, sub="mallory", roles=["merchant"], scope="refunds:read")
    _statuses(client, "/refunds", [peer] * 70, mallory)
    statuses = _statuses(client, "/rotation", [peer] * 20, mallory)

    assert statuses == [403] * 20
    assert [record.fields["outcome"] for record in journal.records] == [
        "forbidden"
    ] * 20


def test_a_forbidden_subject_locks_no_other_subject_out(client: TestClient) -> None:
    """62 forbidden calls of one merchant leave its address open for the others."""
    peer = "203.0.113.9"
    mallory = bearer(NOW, sub="mallory", roles=["merchant"], scope="refunds:read")
    alice = bearer(NOW, sub="alice", roles=["merchant"], scope="refunds:write")
    refused = _statuses(client, "/refunds", [peer] * 62, mallory)

    assert refused == [403] * 60 + [429] * 2
    assert _statuses(client, "/refunds", [peer], alice) == [200]
