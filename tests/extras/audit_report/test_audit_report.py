"""The report of a period equals what was done, and two programs verify it."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from api.extras.audit_report.page import render
from api.extras.audit_report.report import (
    Report,
    ReportPeriod,
    find_problems,
    make_report,
    read_report,
    sign,
)
from backends.sql import SQLStore
from backends.sql.audit import AuditTables
from signer.audit.actions import AuditAction
from signer.audit.checkpoints import CheckpointKey, Verifier
from signer.audit.export import End, checkpoint_line, end_line, header_line
from signer.audit.hash_chain import GENESIS, sealed
from signer.errors import InvalidInputError
from signer.model.audit_record import Record
from tests.api.cli.audit_commands import run
from tests.extras.audit_report.month import END, START, Month, seen
from tests.extras.console.worlds import World
from tests.oracles import audit_report as oracle
from tests.support.audit import KEY, ORIGIN, VERIFIER, chain_lines
from tests.support.refunds import FakeClock
from tests.unit.signer.audit.sealers import sealer


VECTORS = Path(__file__).parents[2] / "vectors"

MONTH = ReportPeriod(START, END)

Lines = list[bytes]


def report_of(
    export: bytes | Sequence[bytes],
    period: ReportPeriod = MONTH,
    key: CheckpointKey = KEY,
) -> Report:
    lines = export.splitlines(keepends=True) if isinstance(export, bytes) else export
    return make_report(lambda: lines, period, Verifier(key.public_pem()), [], {})


def signed(lines: Iterable[bytes], key: CheckpointKey = KEY) -> Lines:
    lines = list(lines)
    return [*lines, sign(lines, ORIGIN, key)]


def both(
    report: Sequence[bytes], export: bytes, page: str | None = None
) -> tuple[list[str], list[str]]:
    """Return the problems that the service finds, and those of the other program."""
    made = report_of(export, read_report(report)[0])
    ours = [f"BAD: {made.verdict.finding}"]
    if made.lines is not None:
        ours = [*find_problems(report, made.lines, VERIFIER)]
        if page is not None and page != render(made.lines):
            ours.append("the page")
    others = oracle.check(b"".join(report), export, [KEY.public_pem()], page)
    return ours, others


def _without(lines: Lines, word: bytes) -> Lines:
    (index, *_) = [n for n, line in enumerate(lines) if word in line]
    return [*lines[:index], *lines[index + 1 :]]


CHANGES: dict[str, Callable[[Lines], Lines]] = {
    "a changed line": lambda lines: [
        line.replace(b'"token:bob"', b'"token:eve"', 1) for line in lines
    ],
    "a removed line": lambda lines: _without(lines, b"key-rotate-succeeded"),
    "an added line": lambda lines: [*lines[:5], lines[4], *lines[5:]],
    "swapped lines": lambda lines: [lines[0], lines[2], lines[1], *lines[3:]],
    "a longer period": lambda lines: [
        lines[0].replace(b'"to":"2027-01-01', b'"to":"2026-12-21'),
        *lines[1:],
    ],
    "other counts": lambda lines: [
        *lines[:-1],
        lines[-1].replace(b'"forged":2', b'"forged":0'),
    ],
}


def test_a_month_equals_what_was_done(sqlite_store: SQLStore) -> None:
    """300 changes, and refunds between them: all are found, and none is invented."""
    month = Month(World(sqlite_store), 1)
    for _ in range(2):
        month.live(150)
        month.forge()
    month.write("moon-land-succeeded", START)
    month.write("signing-stop-succeeded", datetime(1999, 1, 1, tzinfo=UTC))
    month.close()
    export = month.exported()
    report = report_of(export).lines
    assert report is not None
    lines = [json.loads(line) for line in report[1:-1]]
    forged = [each for each in lines if "forged_by" in each]
    others = [each for each in lines if each.get("record", {}).get("actor") == "later"]
    planted = [each for each in lines if each not in [*forged, *others]]
    inside = [each for each in planted if not each.get("is_outside")]
    counts = json.loads(report[-1])["counts"]

    assert month.changes == 300
    assert Counter(map(seen, inside)) == Counter(month.planted)
    # Of the time before and after, up to a checkpoint.
    outside = [each["record"]["event"] for each in planted if each.get("is_outside")]
    assert {*outside} <= {"configuration-loaded", "doctor-run-requested"}
    assert len(forged) == counts["forged"] == 2
    assert [each["record"]["number"] for each in forged] == sorted(month.forged)
    found = [
        (each["record"]["event"], each["subjects"], each.get("is_outside", False))
        for each in others
    ]
    assert sorted(found) == [
        ("moon-land-succeeded", ["unknown"], False),
        ("signing-stop-succeeded", ["stops"], True),
    ]
    assert counts["events"]["refund-accept-succeeded"] >= 100
    assert counts["records"] == sum(counts["events"].values()) + 2

    page = render(report)
    assert both(signed(report), export, page) == ([], [])
    for name, change in CHANGES.items():
        changed = change(list(report))
        assert changed != report, name
        # As by the operator, who has the key.
        assert all(both(signed(changed), export)), name
    for text, other in (("token:bob (", "token:eve ("), ("Restores", "Other")):
        assert all(both(report, export, page.replace(text, other, 1))), text
    assert all(both(signed(report, CheckpointKey.generate()), export))
    altered = [*signed(report)[:-1], signed(report[:-1])[-1]]
    assert all(both(altered, export))
    cut = export.splitlines(keepends=True)
    assert all(both(report, b"".join([*cut[:40], *cut[41:]])))


def _log(
    records: Sequence[Record], checkpoints: Sequence[tuple[int, datetime]]
) -> bytes:
    """Return an export with checkpoints of a size, signed at a time."""
    links = sealed(0, GENESIS, records)
    lines = [header_line(ORIGIN)]
    for size, each in enumerate(links, 1):
        lines += chain_lines([each])
        for covered, at in checkpoints:
            if covered == size:
                note = KEY.sign(ORIGIN, size, each.hash, at).note
                lines.append(checkpoint_line(note))
    return b"".join(
        [*lines, end_line(End(len(links), links[-1].hash, len(checkpoints)))]
    )


def _day(number: int) -> datetime:
    return datetime(2026, 11, 1, tzinfo=UTC) + timedelta(days=number - 1)


def _record(day: int, event: str = "key-fund-requested", **more: Any) -> Record:
    at = _day(day)
    fields = {"event": event, "actor": "a", "timestamp": at.isoformat(), **more}
    return Record.of(fields, at)


# Six records, one a day, with checkpoints at these days.
BRACKETS = [
    ("each record has one", [(1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (6, 6)], [2, 5]),
    ("the first is in the period", [(3, 3), (6, 6)], [0, 6]),
    ("none is in the period", [(1, 1), (6, 6)], [1, 6]),
    ("a clock was late", [(2, 2), (3, 5), (4, 4), (6, 6)], [2, 6]),
    ("a clock was late after the end", [(1, 1), (4, 4), (5, 5), (6, 4)], None),
    ("a clock was early before the start", [(1, 4), (2, 2), (4, 4), (6, 6)], [0, 6]),
    ("the period is not over", [(1, 1), (4, 4)], None),
    ("the period has not begun", [(1, 1), (2, 2)], None),
]


@pytest.mark.parametrize(
    ("checkpoints", "bracket"),
    [each[1:] for each in BRACKETS],
    ids=[n for n, *_ in BRACKETS],
)
def test_checkpoints_bracket_the_period(
    checkpoints: Sequence[tuple[int, int]], bracket: list[int] | None
) -> None:
    """A clock that is too late makes the bracket longer."""
    period = ReportPeriod(_day(3), _day(5))
    size = max(size for size, _ in checkpoints)
    records = [_record(day) for day in range(1, size + 1)]
    export = _log(records, [(n, _day(day)) for n, day in checkpoints])
    if bracket is None:
        with pytest.raises(InvalidInputError, match="no checkpoint was signed after"):
            report_of(export, period)
        return

    report = report_of(export, period).lines
    assert report is not None
    lines = [json.loads(line) for line in report[1:-1]]

    assert [each["sequence"] for each in lines] == [
        *range(bracket[0] + 1, bracket[1] + 1)
    ]
    inside = [each["sequence"] for each in lines if not each.get("is_outside")]
    assert inside == [3, 4]
    assert both(report, export, render(report)) == ([], [])


def _nested(levels: int) -> dict[str, Any]:
    return {"a": _nested(levels - 1)} if levels else {}


def test_records_of_any_form_are_visible() -> None:
    """What no release has written is listed as it is, and escaped on the page."""
    bodies: list[dict[str, Any]] = [
        {"event": "key-destroy-succeeded"},
        {"event": ["key-rotate-succeeded"], "details": {"digest": []}},
        {"event": "key-rotate-succeeded", "details": _nested(62)},
        {"event": "configuration-changed", "details": {"changes": 3}},
        {"event": "configuration-changed", "details": []},
        {"event": "approval-use-succeeded", "details": {"digest": "00"}},
        {"event": "approval-grant-succeeded", "details": {"digest": "00"}},
        {"event": "approval-request-succeeded", "details": {"proposal": "{"}},
        {"event": "approval-request-succeeded", "details": {"proposal": []}},
        {"event": "limits-raise-succeeded", "details": {"approval": "None"}},
        {"event": "refund-accept-refused", "timestamp": 3},
        {"event": "<b>", "details": {"<script>": "</table>"}, "actor": {"é": 1.5}},
        {"event": "key-fund-requested", "actor": "ecila\u202e\n"},
        {},
    ]
    records = [
        Record.of({"timestamp": "2026-11-03", **each}, _day(3)) for each in bodies
    ]
    export = _log(records, [(len(records), _day(6))])
    report = report_of(export, ReportPeriod(_day(1), _day(5))).lines
    assert report is not None
    page = render(report)
    lines = [json.loads(line) for line in report[1:-1]]

    assert [each["record"] for each in lines] == [each.fields for each in records]
    assert [each["subjects"][0] for each in lines] == [
        *("unknown", "unknown", "keys", "rules", "rules", *["people"] * 4),
        *("rules", "checks", "unknown", "keys", "unknown"),
    ]
    assert "<script" not in page
    deep = _log([_record(3, details=_nested(64))], [(1, _day(6))])
    found = report_of(deep, ReportPeriod(_day(1), _day(5))).lines
    assert found is not None
    assert json.loads(found[1])["record"] == {}
    assert both(found, deep, render(found)) == ([], [])
    assert "<b>" not in page
    assert "<td>ecila\\u202e\\u000a</td>" in page
    assert both(report, export, page) == ([], [])


def test_each_action_has_a_subject() -> None:
    """Both programs know every event of the service; payments are only counted."""
    ends = ("requested", "succeeded", "refused")
    events = [f"{action}-{end}" for action in AuditAction for end in ends]
    # Each of the two outcomes of a signature needs an intent.
    records = [_record(3, event) for event in (*events, "digest-sign-requested")]
    export = _log(records, [(len(records), _day(6))])
    report = report_of(export, ReportPeriod(_day(1), _day(5))).lines
    assert report is not None
    lines = [json.loads(line) for line in report[1:-1]]
    listed = {each["record"]["event"] for each in lines}

    assert not [each for each in lines if "unknown" in each["subjects"]]
    assert {each for each in events if each.endswith("-refused")} <= listed
    assert {each.rpartition("-")[0] for each in {*events} - listed} == {
        *("digest-sign", "refund-accept", "refund-cancel", "refund-refuse")
    }
    assert both(report, export, render(report)) == ([], [])


def test_forged_records_are_visible() -> None:
    """One that has the form of a record is shown; other bytes have number and hash."""
    export = (VECTORS / "audit_export_forged.jsonl").read_bytes()
    pem = (VECTORS / "audit_export_forged.pub.pem").read_bytes()
    until = datetime(2026, 1, 1, 1, 0, 2, tzinfo=UTC)
    lines, verifier = export.splitlines(keepends=True), Verifier(pem)
    period = ReportPeriod(until - timedelta(days=1), until)
    report = make_report(lambda: lines, period, verifier, [], {}).lines
    assert report is not None
    page = render(report)
    found = [json.loads(line) for line in report[1:-1]]
    shown = [
        (each["sequence"], each.get("forged_by"), "record" in each) for each in found
    ]

    assert shown == [(2, 6, False), (3, 6, False), (4, 6, False), (6, None, True)]
    assert page.count("forged, as record 6 declares") == 3
    assert oracle.check(b"".join(report), export, [pem], page) == []


def test_only_a_log_that_verifies_is_reported() -> None:
    export = _log([_record(day) for day in range(1, 7)], [(6, _day(6))])
    lines = export.splitlines(keepends=True)
    period = ReportPeriod(_day(1), _day(5))
    made = report_of([*lines[:3], *lines[4:]], period)
    other = iter([lines, [lines[0], *chain_lines(sealed(0, GENESIS, [_record(9)]))]])

    assert made.lines is None
    assert made.verdict.finding is not None
    with pytest.raises(InvalidInputError, match="changed while it was read"):
        make_report(lambda: next(other), period, VERIFIER, [], {})
    with pytest.raises(InvalidInputError, match="must begin before"):
        ReportPeriod(_day(5), _day(5))
    for wrong in ([b"{}\n"], [b"text"], [], [b'{"format":"2","from":"","to":""}\n']):
        with pytest.raises(InvalidInputError):
            read_report(wrong)


def test_a_restored_log_contradicts_an_earlier_report() -> None:
    """Its checkpoints are of the chain that was lost."""
    period, times = ReportPeriod(_day(3), _day(5)), [(2, _day(2)), (6, _day(6))]
    kept = [_record(day) for day in range(1, 5)]
    lost = _log([*kept, _record(5), _record(6)], times)
    again = [*kept, _record(5, "ledger-restore-succeeded"), _record(6)]
    restored = _log(again, times).splitlines(keepends=True)
    earlier = report_of(lost, period).lines
    assert earlier is not None
    note = json.loads(earlier[0])["through"]
    found = make_report(lambda: restored, period, VERIFIER, [note], {})

    assert found.lines is None
    assert found.verdict.finding is not None
    assert found.verdict.finding.code == "replaced"
    ours, others = both(signed(earlier), b"".join(restored))
    assert len(others) == 1
    assert len(ours) == 1
    assert ours[0].startswith(
        "line 1: the line of after, format, from, origin, through"
    )
    assert ours[0].endswith("differs in: through")


def test_a_checkpoint_of_another_key_brackets_nothing() -> None:
    """Nor one of another log; both are counted."""
    records = [_record(day) for day in range(1, 7)]
    export = _log(records, [(2, _day(2)), (6, _day(6))])
    lines = export.splitlines(keepends=True)
    head = sealed(0, GENESIS, records)[3].hash
    other = CheckpointKey.generate().sign(ORIGIN, 4, head, _day(4)).note
    end = json.loads(lines[-1])["end"]
    whole = [*lines[:6], checkpoint_line(other), *lines[6:-1]]
    whole.append(end_line(End(6, bytes.fromhex(end["hash"]), 3)))
    report = report_of(whole, ReportPeriod(_day(3), _day(5))).lines
    assert report is not None

    elsewhere = KEY.sign("hotwallet/staging", 4, head, _day(5)).note
    whole[6] = checkpoint_line(elsewhere)
    same = report_of(whole, ReportPeriod(_day(3), _day(5))).lines

    assert same == report
    counts = json.loads(report[-1])["counts"]
    assert counts["ignored_checkpoints"] == 1
    assert [*counts["checkpoints"].values()] == [1]
    assert len(report) == 6
    assert both(report, b"".join(whole)) == ([], [])


PERIOD = ("--from", "2026-11-03", "--to", "2026-11-05")


def test_reports_on_the_command_line(files: Path) -> None:
    """An auditor makes the same report; what was changed exits with 1."""
    Path("log").write_bytes(
        _log([_record(day) for day in range(1, 7)], [(2, _day(2)), (6, _day(6))])
    )
    key, log = ("--public-key", "key.pub.pem"), str(files / "log")
    made = run("report", log, *PERIOD, *key, "--out", "r", "--html", "p.html")
    verify = ("verify-report", "r", log, *key)
    good = run(*verify, "--html", "p.html")
    program = [sys.executable, oracle.__file__, "r", "log", "key.pub.pem"]
    other = [*program, "--page", "p.html"]

    assert made.stdout.startswith("wrote 4 records to r, not signed")
    assert good.stdout == "ok: 4 records, as in the log; not signed\n"
    assert subprocess.run(other, check=True, capture_output=True).stdout == b"ok\n"

    report, page = Path("r").read_bytes(), Path("p.html").read_text("utf-8")
    Path("p.html").write_text(page.replace("<td>a", "<td>b", 1), "utf-8")
    assert run(*verify, "--html", "p.html").exit_code == 1
    lines = report.splitlines(keepends=True)
    for changed, problem in (
        (report.replace(b'"a"', b'"b"', 1), "line 2: record 3 differs in: record"),
        (b"".join(_without(lines, b'"sequence":4')), "line 3: the report has record 5"),
        (report + lines[1], "only the report has record 3"),
        (b"".join(lines[:-1]), "only the log has the line of counts"),
        (report.replace(b"\n{", b"\n", 1), "an unreadable line"),
    ):
        Path("r").write_bytes(changed)
        found = run(*verify)
        assert found.exit_code == 1
        assert f"BAD: {problem}" in found.stdout or problem in found.stdout
        assert subprocess.run(program, check=False, capture_output=True).returncode
    Path("log").write_bytes(
        b"".join(_without(Path("log").read_bytes().splitlines(True), b"key-fund"))
    )
    assert "BAD: record 1" in run(*verify).stdout
    assert run("report", log, *PERIOD, *key, "--out", "r").exit_code == 1
    assert run("report", log, *PERIOD, "--out", "r").exit_code == 2
    backwards = ("--from", "2026-11-05", "--to", "2026-11-03")
    assert (
        "must begin before" in run("report", log, *backwards, *key, "--out", "r").stderr
    )


def test_the_service_signs_its_report(
    files: Path, journal: AuditTables, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUDIT_SIGNING_KEY_FILE", str(files / "key"))
    clock = FakeClock()
    service = sealer(journal, clock)
    for day in (2, 3, 6):
        clock.now = _day(day)
        journal.append([_record(day)])
        service.work()
    made = run("report", *PERIOD, "--out", "r")
    assert run("export", "--out", "log").exit_code == 0
    verify = ("verify-report", "r", "log", "--public-key", "key.pub.pem")
    good = run(*verify)
    lines = Path("r").read_bytes().splitlines(keepends=True)
    lines[-1] = lines[-1].replace(b" hotwallet/tests", b" another/name")
    Path("r").write_bytes(b"".join(lines))

    assert made.stdout == "wrote 2 records to r, signed\n", made.stderr
    assert good.stdout == "ok: 2 records, as in the log; signed\n"
    assert "not signed by a trusted key" in run(*verify).stdout
