"""What an export proves, and to whom, is said without a traceback."""

import time
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signer.audit.checkpoint_schedule import Unsigned
from signer.audit.checkpoints import CheckpointKey, Verifier
from signer.audit.export_format import (
    MAX_LINE,
    End,
    checkpoint_line,
    end_line,
    header_line,
    parse,
    record_line,
)
from signer.audit.hash_chain import GENESIS, sealed
from signer.audit.sealing_monitor import made_at
from signer.audit.verify import Verdict, verify
from signer.errors import InvalidInputError
from signer.model.audit_record import Record, Sealed
from tests.support.audit import (
    KEY,
    ORIGIN,
    START,
    chain,
    checkpoint,
    exported,
    record,
)


LINKS = chain(6)
LINES = exported(LINKS, [2, 4])
VERIFIER = Verifier(KEY.public_pem())


def _judged(lines: list[bytes], *kept: str) -> Verdict:
    return verify(lines, VERIFIER, kept)


def _found(lines: list[bytes], *kept: str) -> tuple[str, int, int]:
    """Return what was found, at which record, and in which line."""
    finding = _judged(lines, *kept).finding
    assert finding is not None
    return finding.code, finding.sequence, finding.line


def test_says_what_is_proved() -> None:
    """All follow from each other, and those before a checkpoint are signed (A9)."""
    verdict = _judged(LINES)

    assert verdict.is_good
    assert verdict == Verdict(
        ORIGIN,
        6,
        LINKS[-1].hash,
        2,
        signed=4,
        signed_at=made_at(LINKS[3].record.id),
        newest_at=made_at(LINKS[5].record.id),
        late=(),
        finding=None,
    )


def test_a_kept_checkpoint_proves_more() -> None:
    """What was kept elsewhere counts as what is in the file."""
    kept = checkpoint(LINKS, 5, at=START + timedelta(hours=1))
    verdict = _judged(LINES, kept.note)

    assert verdict.is_good
    assert (verdict.signed, verdict.signed_at) == (5, START + timedelta(hours=1))


def test_without_a_checkpoint_nothing_is_proved() -> None:
    """A chain that nobody signed could be anybody's, and so could no chain at all."""
    assert _found(exported(LINKS, ())) == ("unsigned", 1, 9)
    assert _found([LINES[0], end_line(End(0, GENESIS, 0))]) == ("unsigned", 1, 3)


def test_an_older_copy_is_good_by_itself() -> None:
    """Only a checkpoint that was kept elsewhere shows that there was more."""
    older = exported(LINKS[:4], [2, 4])
    kept = checkpoint(LINKS, 6).note

    assert _judged(older).is_good
    assert _found(older, kept) == ("missing", 5, 9)


def test_another_chain_is_good_by_itself() -> None:
    """Only a checkpoint that was kept elsewhere shows that there was another one."""
    others = exported(chain(6), [6])
    kept = checkpoint(LINKS, 2).note

    assert _judged(others).is_good
    assert _found(others, kept) == ("replaced", 2, 3)


def test_another_origin() -> None:
    """A kept checkpoint is about the chain of its own name."""
    kept = checkpoint(LINKS, 2, origin="hotwallet/other").note

    assert _found(LINES, kept) == ("origin", 1, 1)


def test_a_kept_checkpoint_must_be_ours() -> None:
    """One that another key has signed is a mistake of who asks, and no finding."""
    kept = checkpoint(LINKS, 2, key=CheckpointKey.generate()).note

    with pytest.raises(InvalidInputError, match="not signed by a key of ours"):
        _judged(LINES, kept)


HEADER, END = LINES[0], LINES[-1]
NOTE = LINES[3]
FOREIGN = checkpoint_line(checkpoint(LINKS, 2, origin="hotwallet/other").note)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], ("missing", 1, 1)),
        ([b""], ("torn", 1, 1)),
        ([b"\n"], ("unreadable", 1, 1)),
        ([LINES[1]], ("order", 1, 1)),
        ([NOTE], ("order", 1, 1)),
        ([END], ("order", 1, 1)),
        ([HEADER, HEADER], ("order", 1, 2)),
        ([HEADER, NOTE], ("missing", 1, 2)),
        ([*LINES, HEADER], ("trailing", 7, 11)),
        ([*LINES, b"\n"], ("trailing", 7, 11)),
        (LINES[:-1], ("missing", 7, 10)),
        ([*LINES[:-1], END[:-1]], ("torn", 7, 10)),
        ([*LINES[:2], LINES[2][:-9]], ("torn", 2, 3)),
        ([b"x" * MAX_LINE], ("unreadable", 1, 1)),
        ([*LINES[:3], END], ("missing", 3, 4)),
        ([*LINES[:3], FOREIGN], ("checkpoint", 2, 4)),
        ([*LINES[:4], LINES[4], NOTE], ("order", 4, 6)),
        ([*LINES[:3], *LINES[4:]], ("missing", 7, 9)),
        ([header_line(ORIGIN).replace(b"/1", b"/2", 1)], ("unreadable", 1, 1)),
    ],
)
def test_lines_at_their_places(
    lines: list[bytes], expected: tuple[str, int, int]
) -> None:
    """Whatever is missing, twice, torn or elsewhere is named, with its line."""
    assert _found(lines) == expected


def test_a_tail_that_nobody_signed_for() -> None:
    """Records that go on for minutes behind the last checkpoint are a finding."""
    links = chain(2000, seconds=1)
    lines = exported(links, [60])
    kept = checkpoint(links, 1900).note

    assert _found(lines) == ("overdue", 61, len(lines) + 1)
    assert _judged(lines, kept).is_good
    assert _judged(exported(links[:240], [60])).is_good
    assert not _judged(exported(links[:242], [60])).is_good


def test_what_was_signed_late_is_told() -> None:
    """A gap between checkpoints is no finding, since it may be a stop; it is told."""
    links = chain(600, seconds=1)
    verdict = _judged(exported(links, [60, 90, 600]), checkpoint(links, 600).note)

    assert verdict.is_good
    assert verdict.late == (Unsigned(91, 510, timedelta(seconds=450)),)


def test_a_burst_is_no_finding() -> None:
    """What was sealed at once is good, however long nobody had written before."""
    links = chain(3002)

    assert _judged(exported(links, [2])).is_good
    assert _found(exported(links, [1])) == ("overdue", 2, 3006)


def test_cut_anywhere() -> None:
    """A4: wherever a file was cut, that is named with its line, and it is never ok."""
    links = sealed(0, GENESIS, [record(n, text="né \U0001f512") for n in range(3)])
    whole = b"".join(exported(links, [2]))
    for size in range(len(whole)):
        lines = whole[:size].splitlines(keepends=True)
        torn = bool(lines) and not lines[-1].endswith(b"\n")
        complete = lines[:-1] if torn else lines
        verdict = _judged(lines)

        assert verdict.finding is not None
        assert verdict.finding.code == ("torn" if torn else "missing")
        assert verdict.finding.line == len(complete) + 1
        assert "export it again" in verdict.finding.message
        assert verdict.records == sum(b'"record":' in line for line in complete)


def test_a_name_is_given_once() -> None:
    """Two records of one name are found, even where the chain holds them both."""
    first = record(1)
    links = sealed(0, GENESIS, [first, Record(first.id, record(2).body)])

    assert _found(exported(links, [2])) == ("repeated", 2, 3)


@given(text=st.binary(max_size=60))
def test_any_bytes_are_judged(text: bytes) -> None:
    """Whatever is in the file, the answer is a verdict."""
    lines = [*LINES[:2], text + b"\n"]

    assert _found(lines) == ("unreadable", 2, 3)


HOSTILE = (
    (LINES[1], b"[" * 100_000 + b"\n"),
    (LINES[1], b'{"end":{}}\n'),
    (LINES[1], b'{"checkpoint":"","x":1}\n'),
    (b'"number":0', b'"number":' + b"9" * 5000),
    (b'"number":0', b'"number":9007199254740992'),
    (b'"number":0', b'"number":NaN'),
    (b'"number":0', b'"number":0.0'),
    (b'"number":0', b'"number":-0'),
    (b'"test"', b'"\\ud800"'),
    (b'"test"', b'"\xff"'),
    (b'"test"', '"é"'.encode("latin-1")),
    (b'"sequence":1', b'"sequence":true'),
    (b'"sequence":1', b'"sequence":1,"x":1'),
    (b'"au_0', b'"AU_0'),
    (b'"hash":"', b'"hash":"0'),
    (b'"id"', b'"ids"'),
)


@pytest.mark.parametrize(("old", "new"), HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_lines(old: bytes, new: bytes) -> None:
    """Lines that break other readers are not canonical to this one."""
    assert old in LINES[1]

    assert _found([HEADER, LINES[1].replace(old, new)]) == ("unreadable", 1, 2)


@pytest.mark.parametrize("name", [b"checkpoints", b"records"])
def test_the_last_line_counts_in_numbers(name: bytes) -> None:
    """True is no other way to write 1, though Python holds the two to be equal."""
    *lines, last = exported(chain(1), [1])
    spoilt = last.replace(b'"%s":1' % name, b'"%s":true' % name)

    assert spoilt != last
    assert _found([*lines, spoilt]) == ("unreadable", 2, 4)


def test_brackets_in_texts() -> None:
    """A text full of brackets is as deep as any other."""
    each = Sealed(1, bytes(32), record(text='\\"[{' * 1000, other="]"))

    assert parse(record_line(each)) == each


def test_a_text_without_end() -> None:
    """The longest line is judged at once, however its quotes are made."""
    line = b"{" * 501 + b'"' + b'\\"' * (MAX_LINE // 2 - 300) + b"\n"
    began = time.perf_counter()

    assert _found([HEADER, line]) == ("unreadable", 1, 2)
    assert time.perf_counter() - began < 15


def test_fractions_are_canonical_too() -> None:
    """A record with a fraction, should one ever be written, does not spoil the file."""
    each = Sealed(1, bytes(32), record(0, share=0.5, other=1e21))

    assert parse(record_line(each)) == each


def test_names_are_sorted_as_the_specification_says() -> None:
    """Beyond the basic plane, UTF-16's order is another one than Unicode's."""
    each = Sealed(1, bytes(32), record(names={"\ufb33": 1, "\U0001f600": 2}))
    line = record_line(each)

    assert line.index("\U0001f600".encode()) < line.index("\ufb33".encode())
    assert parse(line) == each
