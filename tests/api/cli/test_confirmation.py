"""Commands that change something dangerous ask first; the kill switch does not."""

import sys
from collections.abc import Callable

import pytest

from api.actions.catalogue import ACTIONS
from backends.sql import SQLStore
from tests.api.commands import Run, Terminal


DANGEROUS = [
    (
        *each.command.split(),
        *("1234" for field in each.fields if field.argument),
        *("--reason", "why"),
    )
    for each in ACTIONS
    if each.asks and not each.asks_with_plan
]


@pytest.fixture
def type_line(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that lets the operator type a line."""
    return lambda line: monkeypatch.setattr(sys, "stdin", Terminal(line + "\n"))


@pytest.mark.parametrize("command", DANGEROUS, ids=" ".join)
def test_refuses_without_a_terminal(run: Run, command: tuple[str, ...]) -> None:
    """Status 2 before anything is opened; the message names --yes and --dry-run."""
    finished = run(*command)

    assert (finished.status, finished.out) == (2, "")
    assert "nothing was changed" in " ".join(finished.err.split())
    assert "--yes" in finished.err
    assert "--dry-run" in finished.err


@pytest.mark.parametrize("command", DANGEROUS, ids=" ".join)
def test_an_operator_declines(
    run: Run, type_line: Callable[[str], None], command: tuple[str, ...]
) -> None:
    """Status 1 and nothing on standard output; the default answer is no."""
    type_line("")
    finished = run(*command)

    # Python's own ``input`` leaves a space on standard output.
    assert (finished.status, finished.out.strip()) == (1, "")
    assert "? [y/N]:" in finished.err
    assert finished.err.endswith("cancelled: nothing was changed\n")


@pytest.mark.parametrize("line", ["y", "n"])
def test_an_operator_answers(
    run: Run, sqlite_store: SQLStore, type_line: Callable[[str], None], line: str
) -> None:
    """The question names the tenant, and only "yes" blocks it."""
    type_line(line)
    finished = run("tenants", "block", "shop")

    assert "Block a tenant: shop?" in finished.err
    assert bool(sqlite_store.blocks()) == (line == "y")


@pytest.mark.parametrize("verb", ["stop", "resume"])
def test_the_kill_switch_does_not_ask(run: Run, verb: str) -> None:
    """R27: stopping and resuming need no terminal and no `--yes`."""
    assert run(verb, "--reason", "test").status == 0


@pytest.mark.parametrize("verb", ["stop", "resume"])
def test_the_kill_switch_asks_for_a_reason(
    run: Run, type_line: Callable[[str], None], verb: str
) -> None:
    """The bare command works on a terminal; a script must give the reason."""
    without = run(verb)
    type_line("odd refunds")
    asked = run(verb)

    assert (without.status, without.out) == (2, "")
    assert "Missing option '--reason'" in without.err
    assert asked.status == 0
    assert "Reason: " in asked.err
