"""``hotwallet limits``: what the files allow, and who may raise it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from api.bootstrap import build_container, record_start
from backends.sql import SQLStore
from tests.api.commands import AsAdministrator, Run
from tests.fixtures.ledger import forge
from tests.support.ledgers import seal


MAX_AMOUNT = "networks.local.tokens.TUSD.max_amount"

RAISE = ("limits", "raise", "--reason", "the season begins")


@pytest.fixture
def allow(networks: Callable[..., Path]) -> Callable[[str], None]:
    """Return a function that sets the amount that one refund may have."""
    path = networks()
    text = path.read_text(encoding="utf-8")

    def write(amount: str) -> None:
        path.write_text(text.replace('"1000"', f'"{amount}"'), encoding="utf-8")

    return write


@pytest.fixture
def started(approving: Run) -> Run:
    record_start(build_container(), "worker")
    return approving


def test_nothing_is_raised(started: Run) -> None:
    shown, asked = started("limits", "show"), started(*RAISE)

    assert (shown.status, asked.status) == (0, 0)
    assert shown.out == asked.out
    assert ", version 0\nprocesses may start\n" in shown.out


def test_a_new_ledger(approving: Run) -> None:
    shown = approving("limits", "show")

    assert shown.status == 0
    assert shown.out.startswith("no process has started with this database\n")


def test_a_limit_is_raised(
    started: Run,
    as_administrator: AsAdministrator,
    allow: Callable[[str], None],
    sqlite_store: SQLStore,
) -> None:
    """Two operators with tokens agree; then a worker starts."""
    allow("5000")
    text, shown = started("limits", "show"), started("limits", "show", "--json")
    other = as_administrator("alice", "keys:rotate", *RAISE)
    asked = as_administrator("alice", "limits:raise", *RAISE)
    digest = shown.json["digest"]
    decide = ("approvals", "approve", digest, "--reason", "checked", "--yes")
    own = as_administrator("alice", "approvals:decide", *decide)
    approved = as_administrator("bob", "approvals:decide", *decide)
    ready, again = started("limits", "show"), started(*RAISE)
    record_start(build_container(), "worker")
    after = started("limits", "show", "--json")

    seal(sqlite_store)
    records = [each.record.fields for each in sqlite_store.sealed(0, 99)]
    reasons = [
        each["details"].get("reason")
        for each in records
        if each["actor"] == "token:alice" and "access" not in each["event"]
    ]

    assert reasons
    assert {*reasons} == {RAISE[-1]}
    assert "needs the scope limits:raise" in other.err
    assert (text.status, shown.status, asked.status) == (1, 1, 1)
    assert f"  raised: {MAX_AMOUNT}: 1000 -> 5000\n" in text.out
    assert f"needs an approval ({digest[:16]}): hotwallet limits raise" in text.out
    assert shown.json["raised"] == {MAX_AMOUNT: {"before": "1000", "after": "5000"}}
    assert f"hotwallet approvals approve {digest[:16]}" in asked.err
    assert own.status != 0
    assert "the season begins" in approved.out
    assert f'{MAX_AMOUNT}: {{"after": "5000", "before": "1000"}}' in approved.out
    assert ready.out == again.out
    assert "processes may start" in ready.out
    assert (ready.status, after.status) == (0, 0)
    assert (after.json["raised"], after.json["version"]) == ({}, 1)
    assert after.json["digest"] is None


def test_what_is_new_is_shown_once(started: Run, allow: Callable[[str], None]) -> None:
    """And what is lower is shown as changed."""
    allow("900")
    path = build_container().settings.networks_file
    text = path.read_text(encoding="utf-8")
    other = text.replace("31337", "10").replace("networks.local", "networks.n")
    path.write_text(text + other, encoding="utf-8")
    shown = started("limits", "show")

    assert "  raised: networks.n is new\n" in shown.out
    assert f"  changed: {MAX_AMOUNT}: 1000 -> 900\n" in shown.out
    assert "networks.n." not in shown.out


def test_a_changed_row(started: Run, sqlite_store: SQLStore) -> None:
    forge(sqlite_store, "UPDATE accepted_limits SET document = '[]', version = 1")
    shown = started("limits", "show")

    assert shown.status == 1
    assert shown.out.startswith("not authentic: another program changed the row")
    assert "  raised: networks.local is new\n" in shown.out


def test_before_the_first_worker_of_this_release(
    approving: Run, allow: Callable[[str], None]
) -> None:
    """The ledger has records of starts only, and those are compared."""
    record_start(build_container(), "api")
    allow("5000")
    shown = approving("limits", "show")

    assert shown.status == 1
    assert shown.out.startswith("no worker of this release has started")
    assert f"{MAX_AMOUNT}: 1000 -> 5000" in shown.out


def test_without_approvals(
    run: Run, allow: Callable[[str], None], sqlite_store: SQLStore
) -> None:
    record_start(build_container(), "worker")
    allow("5000")
    shown, asked = run("limits", "show"), run(*RAISE)

    assert (shown.status, asked.status) == (0, 0)
    assert f"  raised: {MAX_AMOUNT}: 1000 -> 5000\nprocesses may start\n" in shown.out
    assert sqlite_store.open_approvals(0, 9) == ()
