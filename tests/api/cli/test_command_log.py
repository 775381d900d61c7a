"""On a terminal, a command prints its own lines only; elsewhere its log is kept."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from backends.sql import SQLStore
from tests.api.networks import write_networks
from tests.support.ledgers import seal, write_mac_key


ROOT = Path(__file__).parents[3]


@pytest.fixture
def environ(sqlite_store: SQLStore, sqlite_url: str, tmp_path: Path) -> dict[str, str]:
    """The environment of a service with one network, whose nodes are not asked."""
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "APP_ENV": "test",
        "NETWORKS_FILE": str(write_networks(tmp_path / "networks.toml")),
        "DATABASE_URL": sqlite_url,
        "MAC_KEY_FILE": str(write_mac_key(tmp_path)),
    }


def _stop(environ: dict[str, str], *options: str, terminal: bool) -> tuple[str, str]:
    """Run ``hotwallet stop``; return standard output and standard error."""
    reader, writer = pty.openpty() if terminal else os.pipe()
    with os.fdopen(reader, "rb", buffering=0) as errors:
        finished = subprocess.run(
            [sys.executable, "-m", "api.cli", *options, "stop", "--reason", "test"],
            env=environ,
            stdout=subprocess.PIPE,
            stderr=writer,
            timeout=60,
            check=True,
        )
        os.write(writer, b"end\n")
        os.close(writer)
        as_json = b""
        while b"end" not in as_json:
            as_json += errors.read(65536)
    return finished.stdout.decode(), as_json.decode().rpartition("end")[0]


def _events(store: SQLStore) -> list[object]:
    seal(store)
    return [each.record.fields["event"] for each in store.sealed(0, 100)]


RECORDS = ["signing-stop-requested", "signing-stop-succeeded"]
RESULT = "everything: stopped"


def test_on_a_terminal(environ: dict[str, str], sqlite_store: SQLStore) -> None:
    """The result alone is shown; the audit records are in the ledger."""
    result, log = _stop(environ, terminal=True)

    assert (result.splitlines()[0], log) == (RESULT, "")
    assert _events(sqlite_store) == RECORDS


@pytest.mark.parametrize(("options", "terminal"), [(["--verbose"], True), ([], False)])
def test_the_log(environ: dict[str, str], options: list[str], terminal: bool) -> None:
    """With --verbose, or away from a terminal, standard error has the events."""
    result, log = _stop(environ, *options, terminal=terminal)

    assert result.splitlines()[0] == RESULT
    assert [json.loads(line)["event"] for line in log.splitlines()] == [
        *RECORDS,
        "alert",
    ]
