"""
The lines of records that are not canonical, or too long for one line.

The export carries their bytes, so that the chain verifies on.
"""

import base64
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given

from signer.audit.export import (
    MAX_LINE,
    PART_BYTES,
    LineReader,
    RawRecord,
    header_line,
    parse,
    raw_lines,
    record_line,
    record_lines,
    records,
)
from signer.audit.hash_chain import is_canonical
from signer.audit.verify import Forgery, verify
from signer.errors import InvalidInputError
from signer.model.audit_record import Record, Sealed
from tests.support.audit import ORIGIN, VERIFIER, exported, record
from tests.unit.signer.audit.hostile_records import (
    BODIES,
    HOSTILE,
    IDS,
    LATER,
    OURS,
    chained,
    declares,
)


ROOT = Path(__file__).resolve().parents[4]


@pytest.mark.parametrize(
    "size", [PART_BYTES - 8 - 4, PART_BYTES, 2 * PART_BYTES - 12, 2 * PART_BYTES + 1]
)
@pytest.mark.parametrize("is_long_id", [False, True])
def test_a_long_record(size: int, *, is_long_id: bool) -> None:
    """It has several lines, none of which is too long."""
    text = "é" * (size // 2)
    forged = Record(text, "au_0") if is_long_id else Record("au_0", text)
    chain = [OURS, forged, declares(forged)]
    lines = exported(chained(*chain), [3])
    verdict = verify(lines, VERIFIER)

    assert verdict.finding is None
    assert verdict.forged == (Forgery(2, declared_by=3, is_canonical=False),)
    assert max(map(len, lines)) < MAX_LINE
    assert list(records(lines)) == chain


def test_a_long_record_of_ours() -> None:
    """A configuration may be long: the record needs several lines, no declaration."""
    long = record(text="x" * MAX_LINE)
    lines = exported(chained(OURS, long, LATER), [3])
    verdict = verify(lines, VERIFIER)

    assert len(lines) == 7
    assert verdict.is_good
    assert verdict.forged == ()
    assert list(records(lines)) == [OURS, long, LATER]


def test_a_record_with_many_brackets() -> None:
    """A configuration may have a thousand tenants; only depth is hostile."""
    many = record(tenants=[{"limits": {}} for _ in range(1000)])
    (line,) = record_lines(*chained(many))

    assert b'"raw"' not in line
    assert parse(line) == chained(many)[0]


(PLAIN,) = chained(OURS)
(RAW,) = chained(Record("au_0", "{}"))
HEADER = header_line(ORIGIN)
(RAW_LINE,) = raw_lines(RAW)
PARTS = list(raw_lines(chained(Record("au_0", "x" * PART_BYTES))[0]))


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
        # What another member says would be in no hash.
        ([RAW_LINE.replace(b'"raw"', b'"more":1,"raw"')], 2),
        ([PARTS[0].replace(b'"part"', b'"more":1,"part"')], 2),
        ([b'{"part":"%s"}\n' % base64.b64encode(bytes(PART_BYTES - 1))], 2),
        ([PARTS[0], record_line(PLAIN)], 3),
        ([PARTS[0], b'{"hash":"%s","raw":"","sequence":1}\n' % (b"0" * 64)], 3),
    ],
)
def test_a_second_encoding_is_refused(lines: list[bytes], line: int) -> None:
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
    monkeypatch.setattr("signer.audit.export._MAX_PARTS", 3)
    finding = verify([HEADER, *[PARTS[0]] * 4], VERIFIER).finding

    assert finding is not None
    assert (finding.code, finding.line) == ("unreadable", 5)


def test_the_documented_program_reads_every_form(tmp_path: Path) -> None:
    """The program in ``docs/reference/audit.md`` computes the hashes of any record."""
    page = (ROOT / "docs" / "reference" / "audit.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    forged = [*HOSTILE[1:3], Record("~", "é" * PART_BYTES), HOSTILE[-1]]
    lines = exported(chained(OURS, *forged, LATER), [3])
    changed = [line.replace(b'"raw":"AAAA', b'"raw":"AAAB') for line in lines]

    statuses = []
    for number, each in enumerate((lines, changed)):
        (export := tmp_path / str(number)).write_bytes(b"".join(each))
        command = [sys.executable, "-c", program, str(export)]
        statuses.append(
            subprocess.run(command, check=False, capture_output=True).returncode
        )

    assert statuses == [0, 1]


def _parsed(line: bytes) -> object:
    try:
        return parse(line)
    except InvalidInputError:
        return None


@given(id_=IDS, body=BODIES)
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
