"""The runbooks know every event that the service tells its operators."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest


ROOT = Path(__file__).resolve().parents[2]

# A level and the name of an event, on one line or on two.
_EVENT = re.compile(r'\.(warning|error|critical|exception)\(\s*"([a-z-]+)"')


def _events() -> Iterator[str]:
    for room in ("signer", "backends", "api"):
        for path in (ROOT / room).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            yield from (name for _, name in _EVENT.findall(text))


def _rows() -> set[str]:
    guide = (ROOT / "docs" / "operations" / "alarms.md").read_text(encoding="utf-8")
    return set(re.findall(r"^\| `([a-z-]+)`", guide, re.MULTILINE))


@pytest.mark.parametrize("event", sorted({*_events(), "signing", "signing-intent"}))
def test_every_event_has_its_row(event: str) -> None:
    """Whoever is woken by a line of the log finds what it means and what to do."""
    assert event in _rows()


def test_the_events_are_found() -> None:
    """The test above reads the code as it is written."""
    assert {"wallet-paused", "refund-delayed", "worker-not-started"} <= {*_events()}


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
