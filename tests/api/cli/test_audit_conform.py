"""``hotwallet audit conform``: output and exit statuses."""

import json
from pathlib import Path

import pytest

from signer.audit.export_format import End, end_line, header_line, record_lines
from signer.audit.hash_chain import GENESIS, sealed
from signer.audit.trace_verdict import Rule
from signer.model.audit_record import Record
from tests.api.cli.audit_commands import run
from tests.support.traces import Recorder


REFERENCE = Path(__file__).resolve().parents[3] / "docs" / "reference" / "audit.md"

pytestmark = pytest.mark.usefixtures("files")


def _export(*records: Record) -> None:
    chain = sealed(0, GENESIS, records)
    lines = [line for each in chain for line in record_lines(each)]
    end = End(len(chain), chain[-1].hash, 0)
    Path("trace").write_bytes(
        b"".join([header_line("hotwallet/tests"), *lines, end_line(end)])
    )


def test_a_trace_is_accepted() -> None:
    """It exits with 0, and counts what was examined."""
    trace = Recorder()
    trace.accept(0)
    trace.reserve(0)
    trace.sign(0)
    _export(*trace.records)

    found, as_json = run("conform", "trace"), run("conform", "trace", "--json")

    assert found.exit_code == as_json.exit_code == 0
    assert found.stdout == (
        "ok: 1 refunds, 1 signatures, 0 intents without an outcome\n"
    )
    assert json.loads(as_json.stdout) == {
        "ok": True,
        "refunds": 1,
        "signatures": 1,
        "unfinished": 0,
        "violations": [],
    }


def test_the_record_and_the_rule_are_named() -> None:
    """It exits with 1."""
    trace = Recorder()
    trace.accept(0)
    trace.reserve(0)
    trace.sign(0)
    trace.cancel(0)
    _export(*trace.records)

    found, as_json = run("conform", "trace"), run("conform", "trace", "--json")
    (violation,) = json.loads(as_json.stdout)["violations"]

    assert found.exit_code == as_json.exit_code == 1
    assert found.stdout.startswith("BAD: record 4: cancelled-unsigned: refund rf_")
    assert found.stdout.splitlines()[-1].startswith("1 violations: 1 refunds")
    assert (violation["record"], violation["rule"]) == (4, "cancelled-unsigned")
    assert violation["id"] == trace.records[3].id


def test_an_incomplete_file_is_not_checked() -> None:
    """It exits with 2."""
    trace = Recorder()
    trace.accept(0)
    _export(*trace.records)
    Path("trace").write_bytes(Path("trace").read_bytes().rsplit(b"{", 1)[0])

    found = run("conform", "trace")

    assert found.exit_code == 2
    assert "incomplete" in found.stderr


def test_every_rule_is_documented() -> None:
    """The reference has a row for each."""
    page = REFERENCE.read_text(encoding="utf-8")

    assert [rule for rule in Rule if f"| `{rule}` |" not in page] == []
