"""Every log event, audit event and alert has its row in docs/how-to/alarms.md."""

import ast
import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

import gunicorn  # type: ignore[import-untyped]
import pytest

from api.actions.catalogue import ACTIONS
from signer.alerts import Alert
from signer.audit.actions import AuditAction
from signer.errors import (
    ChainError,
    ExecutionRevertedError,
    HotWalletError,
    NewKeyUnhealthyError,
    SelfTestPendingError,
    SigningError,
    StoreError,
)
from signer.refunds.explanation import ADVICE
from tests.unit.production_code import Nodes, nodes_of, production_nodes


ROOT = Path(__file__).resolve().parents[3]
GUIDE = (ROOT / "docs" / "how-to" / "alarms.md").read_text(encoding="utf-8")
INCIDENTS = (ROOT / "docs" / "how-to" / "incidents.md").read_text(encoding="utf-8")

_LEVELS = frozenset({"warning", "error", "critical", "exception"})
_HOOKS = frozenset({"_uncaught"})

_EVENT = re.compile(r"[a-z]+(-[a-z]+)*")

# Parts of gunicorn that are not enabled here.
_DISABLED = re.compile(r"(?i)dirty arbiter|HTTP/2")


def _calls(nodes: Nodes, texts: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield (function name, first argument) of calls with a text or constant first."""
    levels = set(_chosen_levels(nodes))
    for call in nodes:
        if not isinstance(call, ast.Call) or not call.args:
            continue
        verb, first = _last_name(call.func), call.args[0]
        if isinstance(first, ast.Name) and first.id in texts:
            yield verb, texts[first.id]
        elif isinstance(first, ast.Constant) and isinstance(first.value, str):
            yield "error" if verb in levels else verb, first.value
        for keyword in call.keywords:
            if keyword.arg == "refused" and isinstance(keyword.value, ast.Constant):
                yield verb, str(keyword.value.value)


def _constants(nodes: Nodes) -> Iterator[tuple[str, str]]:
    """Yield the names and texts of a module's constants."""
    for each in nodes:
        match each:
            case ast.Assign([ast.Name(name)], ast.Constant(str(text)), col_offset=0):
                yield name, text


def _chosen_levels(nodes: Nodes) -> Iterator[str]:
    """Yield the variables that hold one of two log methods."""
    for each in nodes:
        match each:
            case ast.Assign([ast.Name(name)], ast.IfExp() as choice):
                if _last_name(choice) in _LEVELS:
                    yield name


def _last_name(node: ast.expr) -> str:
    """Return the last name of a call; of `a if b else c` the more serious first one."""
    match node:
        case ast.Name(name) | ast.Attribute(attr=name):
            return name
        case ast.IfExp(body=first):
            return _last_name(first)
    return ""


@cache
def _code_calls() -> set[tuple[str, str]]:
    modules = production_nodes()
    texts = dict(each for nodes in modules for each in _constants(nodes))
    return {call for nodes in modules for call in _calls(nodes, texts)}


def _events(verbs: frozenset[str]) -> set[str]:
    calls = _code_calls()
    return {text for verb, text in calls if verb in verbs and _EVENT.fullmatch(text)}


def _gunicorn_errors() -> set[str]:
    folder = Path(gunicorn.__file__).parent
    files = ("arbiter.py", "sock.py", "workers/base.py", "workers/gthread.py")
    return {
        text.split("%")[0].rstrip()
        for name in files
        for verb, text in _calls(nodes_of((folder / name).read_bytes()), {})
        if verb in _LEVELS - {"warning"} and not _DISABLED.search(text)
    }


@cache
def _rows() -> set[str]:
    """Return every name in the first column of a table, and of each runbook."""
    columns = re.findall(r"^\| (`[^|]*`[^|]*) \|", GUIDE, re.MULTILINE)
    names = {name for column in columns for name in re.findall(r"`([^`]+)`", column)}
    return names | set(re.findall(r"^### ([a-z-]+)$", GUIDE, re.MULTILINE))


def test_every_event_and_alert_has_its_row() -> None:
    """Each alert, and each log event at warning or above, has its row."""
    assert {*_events(_LEVELS | _HOOKS), *Alert} - _rows() == set()


def test_every_audited_action_has_its_row() -> None:
    """The alarm guide explains its audit events, or they are of an administrator."""
    explained = _rows()

    for action in {*AuditAction} - {each.audit for each in ACTIONS}:
        ends = {action.event_for(each) for each in ("success", "failed")}
        assert {action.requested, *ends} & explained, action


def test_every_audit_event_of_the_guide_exists() -> None:
    """The table of audit events in the guide names only actions of the code."""
    _, _, table = GUIDE.partition("| audit event |")
    events = re.findall(r"`([a-z-]+)-(?:requested|succeeded|refused)`", table)

    assert {*events} <= {*AuditAction}


def test_every_error_of_gunicorn_has_its_row() -> None:
    """Its text begins with what the row has."""
    for line in _gunicorn_errors():
        assert any(row.startswith(line) for row in _rows()), line


def test_the_search_finds_events() -> None:
    """At least these, one per syntax of a log call."""
    assert {
        *("wallet-paused", "refund-delayed", "worker-not-started", "refund-ended"),
        *("request-unreadable", "jwks-not-refreshed", "thread-died"),
    } <= _events(_LEVELS | _HOOKS)
    assert "WORKER TIMEOUT (pid:" in _gunicorn_errors()


@pytest.mark.parametrize(
    "code",
    [
        *("backend-access-denied", "backend-throttled", "backend-unavailable"),
        *("key-not-found", "key-unusable", "signature-recovery", "signature-encoding"),
    ],
)
def test_every_failure_of_the_key_has_its_row(code: str) -> None:
    assert re.search(rf"^\| [^|]*`{code}`", INCIDENTS, re.MULTILINE)


def _errors(base: type[HotWalletError]) -> Iterator[type[HotWalletError]]:
    """Yield *base* and the errors below it that may delay a refund."""
    if issubclass(base, _NO_DELAYS) or base.__module__ != ChainError.__module__:
        return
    yield base
    for each in base.__subclasses__():
        yield from _errors(each)


# The token rejects the transfer, which ends the refund; and tests of new keys.
_NO_DELAYS = (ExecutionRevertedError, NewKeyUnhealthyError, SelfTestPendingError)


@pytest.mark.parametrize(
    "code",
    sorted(
        {*ADVICE}
        | {
            each.code
            for base in (ChainError, SigningError, StoreError)
            for each in _errors(base)
        }
    ),
)
def test_every_reason_of_a_delay_has_its_row(code: str) -> None:
    """An operator who has run ``hotwallet refund explain`` finds what to do."""
    _, _, table = INCIDENTS.partition("| status and code |")
    rows = re.findall(r"^\| ([^|]*) \|", table.partition("\n\n")[0], re.MULTILINE)
    names = [name for row in rows for name in re.findall(r"`([^`]+)`", row)]

    assert any(fnmatchcase(code, name) for name in names)
