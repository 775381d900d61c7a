"""``hotwallet stop``, ``resume`` and ``stops``, on anvil."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from backends.sql import SQLStore
from signer.model.audit_record import WORKER
from signer.model.refund import Refund
from tests.api.commands import Run
from tests.fixtures.ledger import forge
from tests.support.refunds import World


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
