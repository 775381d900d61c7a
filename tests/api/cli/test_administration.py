"""Commands of operators: stops, nonces, limits and refunds."""

import json
import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from eth_account import Account

from api.bootstrap import build_container, record_start
from api.cli.operator import current_operator
from api.views.explanations import ExplanationDocument
from backends.sql import SQLStore
from signer.model.audit_record import WORKER, Actor
from signer.model.refund import Refund
from tests.api.commands import AsAdministrator, Run
from tests.fixtures.chain import DevChain
from tests.fixtures.ledger import forge
from tests.support.ledgers import seal
from tests.support.payments import signed
from tests.support.refunds import KEY, World


WHY = ("--reason", "odd refunds")


def test_the_kill_switch(
    run: Run, world: World, paid: Refund, networks: Callable[..., Path]
) -> None:
    """R27: a stop needs no node, lasts until `resume`, and can be repeated."""
    networks(url="http://127.0.0.1:9")
    first, again = run("stop", *WHY), run("stop", *WHY)
    networks()
    waiting = world.accepted()
    world.work()
    blocked = world.stored(waiting).moving.blocked_by
    repaired = run("nonce", "repair", "--yes")
    (document,) = run("nonce", "repair", "--json", "--dry-run").json
    explained = run("refund", "explain", waiting.id)
    resumed, twice = run("resume", *WHY), run("resume", *WHY)

    assert (first.status, first.out.splitlines()[0]) == (0, "everything: stopped")
    assert again.out.splitlines()[0] == "everything: already stopped"
    assert blocked == "signing-stopped"
    assert (repaired.status, "  in order" in repaired.out) == (0, True)
    assert "  signing was stopped at " in repaired.out
    assert "`hotwallet resume` ends that\n" in repaired.out
    assert document["stopped_at"] is not None
    assert "signing was stopped at" in explained.out
    assert resumed.out == "everything: resumed\n"
    assert twice.out == "everything: not stopped\n"
    world.work(after=timedelta(seconds=60))
    assert world.stored(waiting).nonce == 1


def test_stops_are_listed(run: Run) -> None:
    """The status is 1 while there is one; a resume lists those that remain."""
    none = run("stops")
    run("stop", "--network", "local", *WHY)
    run("stop", *WHY)
    both = run("stops")
    remaining = run("resume", *WHY)

    assert (none.status, none.out) == (0, "nothing is stopped\n")
    assert both.status == 1
    assert [line.split()[0] for line in both.out.splitlines()] == [
        "everything:",
        "local:",
    ]
    assert remaining.out.splitlines()[0] == "everything: resumed"
    assert remaining.out.splitlines()[1].startswith("local: stopped at ")


def test_a_stop_by_a_rule(run: Run, world: World, sqlite_store: SQLStore) -> None:
    """What the rule counted is listed, unless another program changed the row."""
    evidence = {"network": "local", "rule": "max_refunds", "tenants": {"shop": "7"}}
    world.holds.stop("local", WORKER.because("automatic: many"), evidence=evidence)
    listed, document = run("stops"), run("stops", "--json").json
    change = "evidence = '{}', version = version + 1 WHERE name <> 'register'"
    forge(sqlite_store, f"UPDATE holds SET {change}")
    forged = run("stops", "--json").json

    assert listed.out.splitlines()[1] == (
        '  signing-stopped: network local, rule max_refunds, tenants {"shop": "7"}'
    )
    (shown,), (changed,) = document["stops"], forged["stops"]
    assert (shown["alert"], shown["evidence"]) == ("signing-stopped", evidence)
    assert (changed["authentic"], changed["evidence"]) == (False, None)


def test_a_forged_stop(run: Run, sqlite_store: SQLStore) -> None:
    """Its reason is not printed; ``tests/api/actions`` has how it is ended."""
    forge(
        sqlite_store,
        "INSERT INTO holds (name, at, reason, requested_by, version) VALUES"
        " ('network 999999', '2026-11-26T00:00:00.000000+00:00', 'x', 'cli:bob', 0)",
    )
    listed, document = run("stops"), run("stops", "--json").json

    assert listed.status == 1
    assert listed.out == (
        "chain 999999: not authentic: another program changed this row; stop again and"
        " resume\n"
    )
    assert document["stops"][0]["authentic"] is False


def test_a_chain_id(run: Run) -> None:
    """It must be of a network or of a stop, and replaces the name."""
    unknown = run("stop", "--chain-id", "7", *WHY)
    both = run("stop", "--chain-id", "7", "--network", "local", *WHY)
    everything = run("stop", "--chain-id", "0", *WHY)

    assert "error: not-found: no network and no stop has this chain id" in unknown.err
    assert (both.status, "not both" in both.err) == (2, True)
    assert everything.out.startswith("everything: stopped\n")


def test_without_a_networks_file(
    run: Run, networks: Callable[..., Path], sqlite_store: SQLStore
) -> None:
    """Everything can be stopped and resumed while the file is broken."""
    networks().unlink()
    done = [run("stop", *WHY), run("stops"), run("resume", *WHY)]

    assert [each.status for each in done] == [0, 1, 0]
    assert not sqlite_store.stops()[0].in_force


# ``hotwallet nonce``, on anvil.


def _spend(world: World, dev: DevChain, nonce: int) -> None:
    """Send a transaction with the wallet's key, outside of the service."""
    account = Account.from_key(KEY.secret)
    raw = signed(account, nonce=nonce, data=b"\xf0\x0d")
    assert account.address == world.signer.address
    dev.rpc("eth_sendRawTransaction", "0x" + raw.hex())
    dev.rpc("evm_mine")


@pytest.mark.parametrize(
    "command", [("refund", "explain", "rf_0"), ("nonce", "repair", "--dry-run")]
)
def test_an_unusable_configuration(
    run: Run, networks: Callable[..., Path], command: tuple[str, ...]
) -> None:
    """Without a networks file, commands refuse with its code and status 78."""
    networks().unlink()
    finished = run(*command)

    assert (finished.status, finished.out) == (78, "")
    assert "refused: networks-misconfigured" in finished.err


def test_a_dry_run_names_open_fillers(run: Run, world: World, paid: Refund) -> None:
    """They hold up the nonces above theirs, and no refund shows them."""
    world.fill(1)
    finished = run("nonce", "repair", "--dry-run")
    (looked,) = run("nonce", "repair", "--json", "--dry-run").json

    assert "  open filler: nonce 1, reserved" in finished.out
    assert looked["fillers"] == [{"nonce": 1, "status": "reserved", "blocked_by": None}]


def test_repair_resumes_the_wallet(
    run: Run, world: World, paid: Refund, fresh_anvil: DevChain
) -> None:
    """
    R23: foreign transactions are accepted; the next refund gets the next nonce.

    ``tests/api/actions`` has what else the command prints.
    """
    for nonce in (1, 2):
        _spend(world, fresh_anvil, nonce)
    unnoticed = run("nonce", "repair", "--dry-run")
    world.work()
    planned = run("nonce", "repair", "--dry-run")
    applied = run("nonce", "repair", "--yes")
    again = run("nonce", "repair", "--dry-run")

    statuses = [each.status for each in (unnoticed, planned, applied, again)]
    assert statuses == [1, 1, 0, 0]
    assert "  not paused yet: a worker will pause it" in unnoticed.out
    assert "in order" not in unnoticed.out
    assert "  foreign: nonce 1, transaction 0x" in planned.out
    assert "to accept this and resume the wallet: omit --dry-run" in planned.out
    assert "  resumed" in applied.out
    assert "next nonce 3, the chain's 3\n  in order" in again.out
    assert world.broadcast().nonce == 3


def test_repair_needs_nodes(
    run: Run, networks: Callable[..., Path], paid: Refund
) -> None:
    networks(url="http://127.0.0.1:9")
    finished = run("nonce", "repair", "--dry-run")

    assert (finished.status, finished.out) == (1, "")
    assert "error: chain-unavailable: " in finished.err
    assert "127.0.0.1:9" not in finished.err


def test_an_operator_without_a_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The kill switch works in a container without user names."""
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000_001)

    assert current_operator() == Actor("cli:uid-4000000001")


def test_an_operator_whose_name_is_not_utf8(
    run: Run, sqlite_store: SQLStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A login name that is not UTF-8 is recorded with replacement characters."""
    monkeypatch.setenv("LOGNAME", "al\udcffce")
    run("nonce", "repair", "--network", "local", "--yes")
    seal(sqlite_store)
    records = [each.record.fields for each in sqlite_store.sealed(0, 100)]

    assert {each["actor"] for each in records} == {"cli:al?ce"}
    assert current_operator() == Actor("cli:al?ce")


# ``hotwallet limits``: what the files allow, and who may raise it.

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


# ``hotwallet refund explain``, on anvil, and ``refund list``.


def test_explains(run: Run, world: World, paid: Refund) -> None:
    finished = run("refund", "explain", paid.id)
    as_json = run("refund", "explain", "--json", paid.id)

    assert as_json.json == ExplanationDocument.of(world.explainer.explain(paid)).dump()
    assert (finished.status, as_json.status) == (0, 0)
    lines = finished.out.splitlines()
    assert lines[0] == f"{paid.id}: broadcast"
    assert lines[1] == (
        "  1 of 1 nodes have it in a block, which no worker has recorded yet."
    )
    assert lines[2].startswith("  Next: A worker broadcasts the same bytes again")
    history = lines[lines.index("History:") + 1 : lines.index("Transactions:")]
    assert [line.split()[-1] for line in history] == [
        "queued",
        "reserved",
        "signed",
        "broadcast",
    ]
    assert f"  {paid.tx_hash}  transfer, nonce 0" in finished.out
    assert "  node-1: head " in finished.out
    assert "Not known" not in finished.out


def test_explains_without_nodes(
    run: Run, networks: Callable[..., Path], paid: Refund
) -> None:
    networks(url="http://127.0.0.1:9")
    finished = run("refund", "explain", paid.id)

    assert finished.status == 0
    assert f"{paid.id}: broadcast" in finished.out
    assert f"  {paid.tx_hash}  transfer, nonce 0" in finished.out
    assert "  node-1: chain-unavailable" in finished.out
    assert "Not known: wallet (chain-unavailable)" in finished.out
    assert "127.0.0.1:9" not in finished.out + finished.err


@pytest.mark.parametrize("unknown", ["rf_0", "", "../x"])
def test_an_unknown_refund_is_not_found(run: Run, unknown: str) -> None:
    finished = run("refund", "explain", unknown)

    assert (finished.status, finished.out) == (1, "")
    assert finished.err == "error: not-found: there is no such refund\n"


def test_lists_what_the_options_describe(run: Run, world: World, paid: Refund) -> None:
    """As CSV or JSON lines, without a device or a node."""
    shown = run("refund", "list", "--tenant", paid.tenant)
    lines = run("refund", "list", "--format", "jsonl", "--min-amount", "0.000001").out
    nothing = [
        run("refund", "list", "--format", "jsonl", *options).out
        for options in (
            ("--tenant", "other"),
            ("--status", "confirmed"),
            ("--network", "other"),
            ("--recipient", paid.token_address.lower()),
            ("--to", "2020-01-01"),
            ("--max-amount", "0.000001"),
        )
    ]

    assert shown.out.splitlines()[0].startswith("id,tenant,status,")
    assert shown.out.splitlines()[1].startswith(f"{paid.id},{paid.tenant},broadcast,")
    assert json.loads(lines)["id"] == paid.id
    assert nothing == [""] * 6


@pytest.mark.parametrize(
    "option",
    [
        ("--status", "paid"),
        ("--from", "soon"),
        ("--min-amount", "-1"),
        ("--recipient", "0x1"),
        ("--format", "xml"),
    ],
)
def test_an_option_that_is_malformed_is_named(run: Run, option: Sequence[str]) -> None:
    finished = run("refund", "list", *option)

    assert finished.status in {1, 2}
    assert option[0] in finished.err
