"""Commands that change something dangerous ask first; the kill switch does not."""

import io
import sys
from collections.abc import Callable

import pytest

from api.actions.catalogue import ACTIONS
from backends.sql import SQLStore
from signer.model.key import KeyState
from tests.api.commands import Run
from tests.support.keys import key_at, made_active


OLD = key_at("0x70997970C51812dc3A010C7d01b50e0d17dc79C8")
NEW = key_at("0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC", key_id="02")

DANGEROUS = [
    (
        *each.command.split(),
        *("1234" for field in each.fields if field.argument),
        *("--reason", "why"),
    )
    for each in ACTIONS
    if each.asks and not each.asks_with_plan
]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        """Claim to be a terminal."""
        return True


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


@pytest.fixture
def ring(sqlite_store: SQLStore) -> SQLStore:
    for key in (OLD, NEW):
        made_active(sqlite_store, key)
    return sqlite_store


@pytest.fixture
def token(softhsm_environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Configure a token, which revoking a key does not need to open."""
    for name, value in softhsm_environ.items():
        monkeypatch.setenv(name, value)


def _state(store: SQLStore) -> KeyState:
    ring = store.keys()
    return next(key.state for key in ring if key.address == OLD.address)


@pytest.mark.usefixtures("token")
@pytest.mark.parametrize(
    ("line", "state"), [("y", KeyState.BLOCKED), ("n", KeyState.DRAINING)]
)
def test_an_operator_answers(
    run: Run,
    ring: SQLStore,
    type_line: Callable[[str], None],
    line: str,
    state: KeyState,
) -> None:
    """The question names the address, and only "yes" changes the key."""
    type_line(line)
    finished = run("keys", "revoke", OLD.address)

    assert f"Revoke a former key: {OLD.address}?" in finished.err
    assert _state(ring) is state


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
