"""``hotwallet explain-code`` explains every code that the program can print."""

import ast
import pkgutil
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from api.views.codes import load_codes
from signer.alerts import Alert
from signer.errors import HotWalletError
from tests.api.commands import Run


ROOT = Path(__file__).parents[3]
PACKAGES = ("signer", "backends", "api", "softhsm")


def _explained(kind: str) -> set[str]:
    return {each["code"] for each in load_codes() if each["kind"] == kind}


def _error_codes(kind: type[HotWalletError]) -> Iterator[str]:
    """Yield the codes of *kind* and its subclasses, except for those of tests."""
    if kind.__module__.partition(".")[0] in PACKAGES:
        yield kind.code
    for subclass in kind.__subclasses__():
        yield from _error_codes(subclass)


def _refusal_codes() -> Iterator[str]:
    """Yield the literal first argument of every call that makes a refusal."""
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            if "Refus" not in text and "_refusal" not in text:
                continue  # Parsing takes ten times longer.
            for node in ast.walk(ast.parse(text)):
                match node:
                    case ast.Call(
                        func=ast.Name(
                            id="Refusal" | "RefusedInProduction" | "_refusal"
                        ),
                        args=[ast.Constant(value=str(code)), *_],
                    ):
                        yield code


def test_every_alert_has_an_entry() -> None:
    """And a runbook, which another test checks."""
    assert _explained("alert") == {str(alert) for alert in Alert}


def test_every_refusal_has_an_entry() -> None:
    codes = set(_refusal_codes())

    assert {"settings-invalid", "debug-forbidden", "gunicorn-overridden"} <= codes
    assert codes <= _explained("refusal")


def test_every_error_has_an_entry() -> None:
    for name in PACKAGES:
        package = import_module(name)
        for module in pkgutil.walk_packages(package.__path__, f"{name}."):
            # These are run by Python, Alembic and gunicorn, and cannot be imported.
            if not module.name.endswith((".__main__", ".env", ".gunicorn_conf")):
                import_module(module.name)

    assert set(_error_codes(HotWalletError)) == _explained("error")


def test_an_entry_as_text(hotwallet: Run) -> None:
    """A code may have several entries."""
    finished = hotwallet("explain-code", "Chain-Unavailable")
    lines = finished.out.splitlines()

    assert finished.status == 0
    assert lines[0] == "chain-unavailable (guard refusal): No node answers"
    assert lines[1].startswith("  Meaning: ")
    assert lines[2].startswith("  Cure:    ")
    assert lines[3] == "chain-unavailable (error): No node answers"


def test_an_entry_as_json(hotwallet: Run) -> None:
    (entry,) = hotwallet("explain-code", "debug-forbidden", "--json").json

    assert entry == {
        "code": "debug-forbidden",
        "kind": "refusal",
        "title": "DEBUG is forbidden in production",
        "meaning": "DEBUG=true in production.",
        "cure": "Unset it.",
    }


def test_lists_all_entries_without_a_code(hotwallet: Run) -> None:
    finished, for_programs = (
        hotwallet("explain-code"),
        hotwallet("explain-code", "--json"),
    )

    assert len(finished.out.splitlines()) == len(load_codes())
    assert for_programs.json == list(load_codes())


def test_an_unknown_code(hotwallet: Run) -> None:
    finished = hotwallet("explain-code", "nonsense")

    assert (finished.status, finished.out) == (1, "")
    assert finished.err.startswith("error: not-found: there is no such code")
