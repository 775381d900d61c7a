"""
Records that no process of the service wrote, in an export.

Another program that can write to the database may insert a record with any id and body.
The export carries its bytes, so that the chain verifies on.
"""

import base64
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from signer.audit.canonical_json import is_canonical
from signer.audit.export import records
from signer.audit.export_format import (
    MAX_LINE,
    LineReader,
    RawRecord,
    header_line,
    parse,
    record_line,
    record_lines,
)
from signer.audit.forgeries import hash_id
from signer.audit.hash_chain import GENESIS, sealed
from signer.audit.log import AuditLog
from signer.audit.raw_records import PART, raw_lines
from signer.audit.verdict import Forgery, Verdict
from signer.audit.verify import verify
from signer.errors import InvalidInputError
from signer.model.audit_record import Record, Sealed
from tests.support.audit import ORIGIN, START, VERIFIER, exported, record


ROOT = Path(__file__).resolve().parents[4]

OURS, LATER = record(1), record(2)

SEALER = AuditLog(structlog.get_logger("audit"), clock=lambda: START)

GOOD_ID = record().id

BODIES = (
    "",
    "{}}",
    "[]",
    "5",
    "null",
    "not json",
    '{"a": 1}',
    '{"b":1,"a":2}',
    '{"a":1,"a":1}',
    '{"a":1.0}',
    '{"a":NaN}',
    '{"a":"\\ud800"}',
    '{"a":"\\u0061"}',
    "{}\n",
    '{},"sequence":2}\n{"hash":"' + "0" * 64 + f'","id":"{GOOD_ID}","record":{{}}',
    '{"a":' * 501 + "1" + "}" * 501,
    '{"a":' + "9" * 5000 + "}",
    "\x00",
)


def _sealed(*chain: Record) -> list[Sealed]:
    return sealed(0, GENESIS, chain)


def _verify(*chain: Record, sizes: Sequence[int] = ()) -> Verdict:
    lines = exported(_sealed(*chain), sizes or [len(chain)])
    return verify(lines, VERIFIER)


def _declares(*forged: Record) -> Record:
    return SEALER.forged([each.id for each in forged])


HOSTILE = [
    *(Record(GOOD_ID, body) for body in BODIES),
    *(
        Record(id_, "{}")
        for id_ in ("", "au_0", "AU_" + "0" * 32, GOOD_ID + "\n", 'x"', "\u202e\x1b[2J")
    ),
]


@pytest.mark.parametrize("forged", HOSTILE, ids=range(len(HOSTILE)))
def test_a_declared_record(forged: Record) -> None:
    """The chain verifies, and the verdict names the record that declares it forged."""
    chain = [OURS, forged, LATER, _declares(forged)]
    verdict = _verify(*chain)

    assert verdict.finding is None
    assert verdict.records == verdict.signed == 4
    assert verdict.forged == (Forgery(2, declared_by=4, is_canonical=False),)
    assert list(records(exported(_sealed(*chain), [4]))) == chain


@pytest.mark.parametrize("forged", HOSTILE, ids=range(len(HOSTILE)))
def test_an_undeclared_record(forged: Record) -> None:
    """The finding names the first of them and its line."""
    chain = [OURS, forged, LATER, Record("au_last", "{}")]
    verdict = _verify(*chain)

    assert verdict.finding is not None
    assert verdict.finding.code == "undeclared"
    assert (verdict.finding.sequence, verdict.finding.line) == (2, 3)
    assert verdict.records == 4


def test_only_an_undeclared_record_is_a_finding() -> None:
    """The first one that no effective declaration names is reported."""
    first, second = Record("au_1", "{}"), Record("au_2", "{}")
    lie = _declares(second)
    verdict = _verify(first, second, lie, _declares(first, lie))

    assert verdict.finding is not None
    assert (verdict.finding.code, verdict.finding.sequence) == ("undeclared", 2)
    assert verdict.forged == (
        Forgery(1, declared_by=4, is_canonical=False),
        Forgery(3, declared_by=4, is_canonical=True),
    )


def test_a_record_cannot_declare_itself() -> None:
    """Only a record in canonical form is a declaration."""
    body = json.dumps(
        {
            "event": "audit-records-forged",
            "details": {"id_sha256": [hash_id("au_1"), hash_id(OURS.id)]},
        }
    )
    verdict = _verify(OURS, Record("au_1", body), LATER)

    assert verdict.forged == ()
    assert verdict.finding is not None
    assert (verdict.finding.code, verdict.finding.sequence) == ("undeclared", 2)


def test_the_first_declaration_is_named() -> None:
    """Two processes may declare the same record."""
    forged = Record("au_0", "{}")
    verdict = _verify(forged, _declares(forged), _declares(OURS, forged), OURS)

    assert verdict.forged == (
        Forgery(1, declared_by=2, is_canonical=False),
        Forgery(4, declared_by=3, is_canonical=True),
    )


@pytest.mark.parametrize("sizes", [[1], [1, 3]])
def test_its_id_proves_no_time(sizes: list[int]) -> None:
    """It makes no checkpoint overdue or late, and is not the newest record."""
    forged = Record("~", "")
    verdict = _verify(OURS, _declares(forged), forged, sizes=sizes)

    assert verdict.is_good
    assert verdict.late == ()
    assert verdict.newest_at == START


@pytest.mark.parametrize("size", [PART - 8 - 4, PART, 2 * PART - 12, 2 * PART + 1])
@pytest.mark.parametrize("is_long_id", [False, True])
def test_a_long_record(size: int, *, is_long_id: bool) -> None:
    """It has several lines, none of which is too long."""
    text = "é" * (size // 2)
    forged = Record(text, "au_0") if is_long_id else Record("au_0", text)
    chain = [OURS, forged, _declares(forged)]
    lines = exported(_sealed(*chain), [3])
    verdict = verify(lines, VERIFIER)

    assert verdict.finding is None
    assert verdict.forged == (Forgery(2, declared_by=3, is_canonical=False),)
    assert max(map(len, lines)) < MAX_LINE
    assert list(records(lines)) == chain


def test_a_long_record_of_ours() -> None:
    """A configuration may be long: the record needs several lines, no declaration."""
    long = record(text="x" * MAX_LINE)
    lines = exported(_sealed(OURS, long, LATER), [3])
    verdict = verify(lines, VERIFIER)

    assert len(lines) == 7
    assert verdict.is_good
    assert verdict.forged == ()
    assert list(records(lines)) == [OURS, long, LATER]


def test_a_record_with_many_brackets() -> None:
    """A configuration may have a thousand tenants; only depth is hostile."""
    many = record(tenants=[{"limits": {}} for _ in range(1000)])
    (line,) = record_lines(*_sealed(many))

    assert b'"raw"' not in line
    assert parse(line) == _sealed(many)[0]


(PLAIN,) = _sealed(OURS)
(RAW,) = _sealed(Record("au_0", "{}"))
HEADER = header_line(ORIGIN)
(RAW_LINE,) = raw_lines(RAW)
PARTS = list(raw_lines(_sealed(Record("au_0", "x" * PART))[0]))


@pytest.mark.parametrize(
    ("lines", "line"),
    [
        (list(raw_lines(PLAIN)), 2),
        ([RAW_LINE.replace(b'"raw"', b'"rax"')], 2),
        ([RAW_LINE.replace(b'"sequence":1', b'"sequence":true')], 2),
        ([RAW_LINE.replace(b'"hash":"', b'"hash":"0')], 2),
        ([b'{"hash":"%s","raw":"","sequence":1}\n' % (b"0" * 64)], 2),
        ([b'{"hash":"%s","raw":"AB==","sequence":1}\n' % (b"0" * 64)], 2),
        ([b'{"hash":"%s","raw":"\xc3\xa9","sequence":1}\n' % (b"0" * 64)], 2),
        ([b'{"part":""}\n'], 2),
        ([b'{"part":"%s"}\n' % base64.b64encode(bytes(PART - 1))], 2),
        ([PARTS[0], record_line(PLAIN)], 3),
        ([PARTS[0], b'{"hash":"%s","raw":"","sequence":1}\n' % (b"0" * 64)], 3),
    ],
)
def test_another_encoding(lines: list[bytes], line: int) -> None:
    """Each record has one encoding: others are not lines of an export."""
    finding = verify([HEADER, *lines], VERIFIER).finding

    assert finding is not None
    assert (finding.code, finding.sequence, finding.line) == ("unreadable", 1, line)


@pytest.mark.parametrize("content", [bytes(7), bytes(7) + b"\x09x", bytes(8) + b"\xff"])
def test_bytes_that_are_no_record(content: bytes) -> None:
    line = b'{"hash":"%s","raw":"%s","sequence":1}\n' % (
        b"0" * 64,
        base64.b64encode(content),
    )

    with pytest.raises(InvalidInputError, match="not the bytes of a record"):
        LineReader().read(line)


def test_a_part_out_of_place() -> None:
    """Before the first line, or before the end of the file."""
    early = verify(PARTS, VERIFIER).finding
    torn = verify([HEADER, PARTS[0]], VERIFIER).finding

    assert early is not None
    assert (early.code, early.line) == ("order", 1)
    assert torn is not None
    assert (torn.code, torn.line) == ("missing", 3)
    with pytest.raises(InvalidInputError, match="incomplete"):
        list(records([HEADER, PARTS[0]]))


def test_a_record_without_an_end_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hostile file cannot exhaust the memory of the reader."""
    monkeypatch.setattr("signer.audit.raw_records._MAX_PARTS", 3)
    finding = verify([HEADER, *[PARTS[0]] * 4], VERIFIER).finding

    assert finding is not None
    assert (finding.code, finding.line) == ("unreadable", 5)


def test_the_documented_program_reads_every_form(tmp_path: Path) -> None:
    """The program in ``docs/reference/audit.md`` computes the hashes of any record."""
    page = (ROOT / "docs" / "reference" / "audit.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    forged = [*HOSTILE[1:3], Record("~", "é" * PART), HOSTILE[-1]]
    lines = exported(_sealed(OURS, *forged, LATER), [3])
    changed = [line.replace(b'"raw":"AAAA', b'"raw":"AAAB') for line in lines]

    statuses = []
    for number, each in enumerate((lines, changed)):
        (export := tmp_path / str(number)).write_bytes(b"".join(each))
        command = [sys.executable, "-c", program, str(export)]
        statuses.append(
            subprocess.run(command, check=False, capture_output=True).returncode
        )

    assert statuses == [0, 1]


_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _TEXT,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3)
    ),
    max_leaves=8,
)

_BODY = (
    _TEXT
    | _JSON.map(json.dumps)
    | st.dictionaries(_TEXT, _JSON).map(
        lambda fields: json.dumps(
            fields, ensure_ascii=False, sort_keys=True, separators=(",", ":")
        )
    )
)

_ID = _TEXT | st.just(GOOD_ID)


def _parsed(line: bytes) -> object:
    try:
        return parse(line)
    except InvalidInputError:
        return None


@given(id_=_ID, body=_BODY)
def test_any_record_has_one_encoding(id_: str, body: str) -> None:
    """It is read back exactly; in canonical form as JSON, and otherwise as bytes."""
    each = Sealed(1, bytes(32), Record(id_, body))
    (line,) = record_lines(each)
    read = LineReader().read(line)

    assert line.count(b"\n") == 1
    if is_canonical(each.record):
        assert (line, read) == (record_line(each), each)
        with pytest.raises(InvalidInputError):
            LineReader().read(*raw_lines(each))
    else:
        assert read == RawRecord(each, is_canonical=False)
        assert _parsed(record_line(each)) != each


@given(
    hostile=st.lists(st.tuples(_ID, _BODY), max_size=4, unique_by=lambda pair: pair[0])
)
def test_any_records_verify_once_declared(hostile: list[tuple[str, str]]) -> None:
    """Once declared, no record makes the export bad, and each is listed."""
    forged = [Record(*each) for each in hostile]
    chain = [OURS, *forged, LATER]
    undeclared = next((r for r in forged if not is_canonical(r)), None)
    before, after = _verify(*chain), _verify(*chain, _declares(*forged))

    if undeclared is None:
        assert before.is_good
    else:
        assert before.finding is not None
        assert before.finding.sequence == chain.index(undeclared) + 1
    assert after.is_good
    assert [each.sequence for each in after.forged] == [
        number for number, each in enumerate(chain, 1) if each in forged
    ]
