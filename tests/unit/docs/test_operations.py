"""The runbooks know every event that the service tells its operators and auditors."""

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import gunicorn  # type: ignore[import-untyped]
import pytest

from signer.alerts import Alert
from signer.audit.log import AuditAction


ROOT = Path(__file__).resolve().parents[3]
GUIDE = (ROOT / "docs" / "operations" / "alarms.md").read_text(encoding="utf-8")

_LEVELS = frozenset({"warning", "error", "critical", "exception"})
_HOOKS = frozenset({"_uncaught"})

_EVENT = re.compile(r"[a-z]+(-[a-z]+)*")

# Parts of gunicorn that are not in use here: no setting of ours turns them on.
_ASLEEP = re.compile(r"(?i)dirty arbiter|HTTP/2")


def _trees() -> list[ast.Module]:
    """Return all of our rooms, parsed."""
    return [
        ast.parse(path.read_text(encoding="utf-8"))
        for room in ("signer", "backends", "api", "softhsm")
        for path in sorted((ROOT / room).rglob("*.py"))
    ]


def _calls(tree: ast.Module, texts: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield what is called, by its last name, with a text, or one of *texts*, first."""
    levels = set(_chosen_levels(tree))
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call) or not call.args:
            continue
        verb, first = _last_name(call.func), call.args[0]
        if isinstance(first, ast.Name) and first.id in texts:
            yield verb, texts[first.id]
        elif isinstance(first, ast.Constant) and isinstance(first.value, str):
            yield "error" if verb in levels else verb, first.value


def _constants(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for each in tree.body:
        match each:
            case ast.Assign([ast.Name(name)], ast.Constant(str(text))):
                yield name, text


def _chosen_levels(tree: ast.AST) -> Iterator[str]:
    """Yield the names under which a file keeps one of two levels of its log."""
    for each in ast.walk(tree):
        match each:
            case ast.Assign([ast.Name(name)], ast.IfExp() as choice):
                if _last_name(choice) in _LEVELS:
                    yield name


def _last_name(node: ast.expr) -> str:
    """Return a call's name: of a choice of two, the more serious is the first."""
    match node:
        case ast.Name(name) | ast.Attribute(attr=name):
            return name
        case ast.IfExp(body=first):
            return _last_name(first)
    return ""


def _told(verbs: frozenset[str]) -> set[str]:
    return {text for verb, text in CALLS if verb in verbs and _EVENT.fullmatch(text)}


def _gunicorns_lines() -> set[str]:
    """Return how gunicorn's own errors begin, up to the first thing they tell of."""
    folder = Path(gunicorn.__file__).parent
    files = ("arbiter.py", "sock.py", "workers/base.py", "workers/gthread.py")
    return {
        text.split("%")[0].rstrip()
        for name in files
        for verb, text in _calls(ast.parse((folder / name).read_bytes()), {})
        if verb in _LEVELS - {"warning"} and not _ASLEEP.search(text)
    }


def _rows() -> set[str]:
    """Return every name in the first column of a table."""
    columns = re.findall(r"^\| (`[^|]*`[^|]*) \|", GUIDE, re.MULTILINE)
    return {name for column in columns for name in re.findall(r"`([^`]+)`", column)}


TREES = _trees()
TEXTS = {name: text for tree in TREES for name, text in _constants(tree)}
CALLS = {call for tree in TREES for call in _calls(tree, TEXTS)}


@pytest.mark.parametrize("event", sorted(_told(_LEVELS | _HOOKS)))
def test_every_event_has_its_row(event: str) -> None:
    """Whoever is woken by a line of the log finds what it means and what to do."""
    assert event in _rows()


@pytest.mark.parametrize("action", AuditAction)
def test_every_audited_action_has_its_row(action: AuditAction) -> None:
    """The alarm guide explains the audit events of every action."""
    names = {action.requested, action.event_for("success"), action.event_for("failed")}

    assert names & _rows()


def test_every_audit_event_of_the_guide_exists() -> None:
    """The table of audit events in the guide names only actions of the code."""
    _, _, table = GUIDE.partition("| audit event |")
    events = re.findall(r"`([a-z-]+)-(?:requested|succeeded|refused)`", table)

    assert {*events} <= {*AuditAction}


@pytest.mark.parametrize("alert", Alert)
def test_every_alert_has_its_row(alert: Alert) -> None:
    """Whoever is called finds what it is about."""
    assert str(alert) in _rows()


@pytest.mark.parametrize("line", sorted(_gunicorns_lines()))
def test_every_error_of_gunicorn_has_its_row(line: str) -> None:
    """What gunicorn says in its own words wakes somebody as well."""
    assert any(row.startswith(line) for row in _rows())


def test_the_events_are_found() -> None:
    """The tests above read the code as it is written, in every way that it has."""
    assert {
        "wallet-paused",
        "refund-delayed",
        "worker-not-started",
        "refund-ended",
        "request-unreadable",
        "jwks-not-refreshed",
        "thread-died",
    } <= _told(_LEVELS | _HOOKS)
    assert "WORKER TIMEOUT (pid:" in _gunicorns_lines()


@pytest.mark.parametrize(
    "code",
    [
        "backend-access-denied",
        "backend-throttled",
        "backend-unavailable",
        "key-not-found",
        "key-unusable",
        "signature-recovery",
        "signature-encoding",
    ],
)
def test_every_failure_of_the_key_has_its_row(code: str) -> None:
    """Each outcome of a signature that did not come leads to its cure."""
    guide = (ROOT / "docs" / "operations" / "hsm-down.md").read_text(encoding="utf-8")

    assert re.search(rf"^\| [^|]*`{code}`", guide, re.MULTILINE)


def test_every_page_is_in_the_index() -> None:
    """No runbook lies where nobody would look for it."""
    folder = ROOT / "docs" / "operations"
    index = (folder / "README.md").read_text(encoding="utf-8")
    pages = {path.name for path in folder.glob("*.md")} - {"README.md"}

    assert {page for page in pages if f"]({page})" not in index} == set()
