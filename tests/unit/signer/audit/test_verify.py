"""The verdict on an export: what it proves, and its first bad record."""

import time
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signer.audit.checkpointer import Unsigned
from signer.audit.checkpoints import CheckpointKey, Verifier
from signer.audit.export import (
    MAX_LINE,
    End,
    checkpoint_line,
    end_line,
    header_line,
    parse,
    record_line,
)
from signer.audit.hash_chain import GENESIS, sealed
from signer.audit.verify import (
    ExportVerdict,
    ForgedCheckpoints,
    Forgery,
    verify,
)
from signer.errors import InvalidInputError
from signer.model.audit_record import Record, Sealed, made_at
from tests.support.audit import (
    ORIGIN,
    START,
    VERIFIER,
    chain,
    checkpoint,
    exported,
    record,
)
from tests.support.ledgers import DRAFTS
from tests.support.signings import (
    DIGEST,
    SUBJECT,
    batch_purpose,
    intent,
    log_at,
    outcome,
)


LINKS = chain(6)
LINES = exported(LINKS, [2, 4])


def _verify(lines: list[bytes], *kept: str) -> ExportVerdict:
    return verify(lines, VERIFIER, kept)


def _finding(lines: list[bytes], *kept: str) -> tuple[str, int, int]:
    """Return the code, record and line of the finding."""
    finding = _verify(lines, *kept).finding
    assert finding is not None
    return finding.code, finding.sequence, finding.line


def test_a_good_export() -> None:
    """The chain is valid, and the records before a checkpoint are signed (A9)."""
    verdict = _verify(LINES)

    assert verdict.is_good
    assert verdict == ExportVerdict(
        ORIGIN,
        6,
        LINKS[-1].hash,
        2,
        signed=4,
        signed_at=made_at(LINKS[3].record.id),
        newest_at=made_at(LINKS[5].record.id),
        late=(),
        forged=(),
        forged_checkpoints=None,
        finding=None,
    )


def test_without_a_checkpoint_nothing_is_proved() -> None:
    """Any attacker could have made a chain without a signature, also an empty one."""
    assert _finding(exported(LINKS, ())) == ("unsigned", 1, 9)
    assert _finding([LINES[0], end_line(End(0, GENESIS, 0))]) == ("unsigned", 1, 3)


def test_forged_records_are_listed() -> None:
    """By sequence; a forged declaration makes no other record look forged."""
    ours, forged, *_ = [each.record for each in LINKS]
    lie = DRAFTS.forged([ours.id])
    truth = DRAFTS.forged([forged.id, lie.id])
    verdict = _verify(exported(sealed(0, GENESIS, [ours, forged, lie, truth]), [4]))

    assert verdict.forged == (
        Forgery(2, declared_by=4, is_canonical=True),
        Forgery(3, declared_by=4, is_canonical=True),
    )


def test_forged_checkpoints_prove_nothing() -> None:
    """They are counted and ignored; the trusted checkpoints around them count."""
    invalid = NOTE.replace(b"2026-", b"2027-", 1)
    malformed = checkpoint_line("x")
    end = end_line(End(6, LINKS[-1].hash, 5))
    lines = [*LINES[:3], FOREIGN, NOTE, invalid, malformed, *LINES[4:-1], end]
    verdict = _verify(lines)

    assert verdict.is_good
    assert (verdict.checkpoints, verdict.signed) == (2, 4)
    assert verdict.forged_checkpoints == ForgedCheckpoints(
        3, 4, 2, "the checkpoint has another origin"
    )
    assert _finding([*lines[:-1], END]) == ("missing", 7, len(lines))


def test_no_checkpoint_is_by_a_trusted_key() -> None:
    """The finding names the first checkpoint, and the option for its key."""
    found = verify(LINES, Verifier(CheckpointKey.generate().public_pem())).finding

    assert found is not None
    assert (found.code, found.sequence, found.line) == ("checkpoint", 2, 4)
    assert str(found) == f"record 2 (line 4): {found.message}"
    assert "not signed by a trusted key: check --public-key" in found.message


def test_a_kept_checkpoint_counts_and_reveals_another_chain() -> None:
    """Without it, an older copy and another chain verify."""
    kept = checkpoint(LINKS, 5, at=START + timedelta(hours=1))
    older, others = exported(LINKS[:4], [2, 4]), exported(chain(6), [6])
    verdict = _verify(LINES, kept.note)

    assert verdict.is_good
    assert (verdict.signed, verdict.signed_at) == (5, START + timedelta(hours=1))
    assert _verify(older).is_good
    assert _verify(others).is_good
    assert _finding(older, checkpoint(LINKS, 6).note) == ("missing", 5, 9)
    assert _finding(others, checkpoint(LINKS, 2).note) == ("replaced", 2, 3)
    elsewhere = checkpoint(LINKS, 2, origin="hotwallet/other").note
    assert _finding(LINES, elsewhere) == ("origin", 1, 1)


def test_a_kept_checkpoint_must_be_trusted() -> None:
    """A kept checkpoint by another key is an input error, not a finding."""
    kept = checkpoint(LINKS, 2, key=CheckpointKey.generate()).note

    with pytest.raises(InvalidInputError, match="not signed by a trusted key"):
        _verify(LINES, kept)


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
        ([*LINES[:3], FOREIGN, END], ("missing", 3, 5)),
        ([*LINES[:4], LINES[4], NOTE], ("order", 4, 6)),
        ([*LINES[:3], *LINES[4:]], ("missing", 7, 9)),
        ([header_line(ORIGIN).replace(b"/1", b"/2", 1)], ("unreadable", 1, 1)),
    ],
)
def test_reports_lines_that_are_out_of_place(
    lines: list[bytes], expected: tuple[str, int, int]
) -> None:
    """A missing, repeated, incomplete or moved line is reported by its number."""
    assert _finding(lines) == expected


def test_reports_an_overdue_checkpoint() -> None:
    """Minutes of records after the last checkpoint are a finding."""
    links = chain(2000, seconds=1)
    lines = exported(links, [60])
    kept = checkpoint(links, 1900).note

    assert _finding(lines) == ("overdue", 61, len(lines) + 1)
    assert _verify(lines, kept).is_good
    assert _verify(exported(links[:240], [60])).is_good
    assert not _verify(exported(links[:242], [60])).is_good


def test_lists_records_that_were_signed_late() -> None:
    """A gap between checkpoints may be a stop: it is listed, and is not a finding."""
    links = chain(600, seconds=1)
    verdict = _verify(exported(links, [60, 90, 600]), checkpoint(links, 600).note)

    assert verdict.is_good
    assert verdict.late == (Unsigned(91, 510, timedelta(seconds=450)),)


def test_a_burst_is_not_a_finding() -> None:
    """Many records at once are fine, even after a long quiet time."""
    links = chain(3002)

    assert _verify(exported(links, [2])).is_good
    assert _finding(exported(links, [1])) == ("overdue", 2, 3006)


def test_a_cut_at_any_byte_is_reported() -> None:
    """A4: a file that is cut off anywhere never verifies, and the line is reported."""
    links = sealed(0, GENESIS, [record(n, text="né \U0001f512") for n in range(3)])
    whole = b"".join(exported(links, [2]))
    for size in range(len(whole)):
        lines = whole[:size].splitlines(keepends=True)
        torn = bool(lines) and not lines[-1].endswith(b"\n")
        complete = lines[:-1] if torn else lines
        verdict = _verify(lines)

        assert verdict.finding is not None
        assert verdict.finding.code == ("torn" if torn else "missing")
        assert verdict.finding.line == len(complete) + 1
        assert "export it again" in verdict.finding.message
        assert verdict.records == sum(b'"record":' in line for line in complete)


def test_reports_a_repeated_id() -> None:
    """Two records with one id are a finding, even if the chain is valid."""
    first = record(1)
    links = sealed(0, GENESIS, [first, Record(first.id, record(2).body)])

    assert _finding(exported(links, [2])) == ("repeated", 2, 3)


@given(text=st.binary(max_size=60))
def test_any_bytes_get_a_verdict(text: bytes) -> None:
    """Arbitrary bytes give a verdict and no exception."""
    lines = [*LINES[:2], text + b"\n"]

    assert _finding(lines) == ("unreadable", 2, 3)


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
    """Lines that confuse other JSON parsers are rejected as not canonical."""
    assert old in LINES[1]

    assert _finding([HEADER, LINES[1].replace(old, new)]) == ("unreadable", 1, 2)


@pytest.mark.parametrize("name", [b"checkpoints", b"records"])
def test_booleans_are_not_numbers(name: bytes) -> None:
    """``true`` is not accepted for 1, though Python considers them equal."""
    *lines, last = exported(chain(1), [1])
    spoilt = last.replace(b'"%s":1' % name, b'"%s":true' % name)

    assert spoilt != last
    assert _finding([*lines, spoilt]) == ("unreadable", 2, 4)


def test_an_unterminated_string_is_rejected_quickly() -> None:
    """The longest line takes linear time, with any quotes in it."""
    line = b"{" * 501 + b'"' + b'\\"' * (MAX_LINE // 2 - 300) + b"\n"
    began = time.perf_counter()

    assert _finding([HEADER, line]) == ("unreadable", 1, 2)
    assert time.perf_counter() - began < 15


MAC = f"1-abc:{'0f' * 32}"


def test_a_line_has_the_mac_of_its_record() -> None:
    """The hash does not cover it, so an export without it has the same hashes."""
    plain = chain(1)[0]
    record_with_mac = Record(plain.record.id, plain.record.body, MAC)
    line = record_line(Sealed(plain.sequence, plain.hash, record_with_mac))
    parsed = parse(line)

    assert isinstance(parsed, Sealed)
    assert (parsed, parsed.record.mac) == (plain, MAC)
    assert line.replace(b'"mac":"%s",' % MAC.encode(), b"") == record_line(plain)
    for each in (line, record_line(plain)):
        assert _verify([HEADER, each, *exported([plain], [1])[2:]]).is_good


@pytest.mark.parametrize("mac", ["", "x", 'x"', f"{MAC}0", MAC.upper(), f" {MAC}"])
def test_what_is_no_mac_is_not_exported(mac: str) -> None:
    """Another program may have stored any text in its place."""
    plain = chain(1)[0]
    record_with_mac = Record(plain.record.id, plain.record.body, mac)

    assert record_line(Sealed(1, plain.hash, record_with_mac)) == record_line(plain)


@pytest.mark.parametrize("mac", [b"null", b"5", b'""', b'"x:y"'])
def test_a_malformed_mac_is_rejected(mac: bytes) -> None:
    line = exported(chain(1), [1])[1].replace(b'"record"', b'"mac":%s,"record"' % mac)

    assert _finding([HEADER, line]) == ("unreadable", 1, 2)


def _signatures(*records: Record) -> tuple[str, int, int] | None:
    """Return what a verification of *records* finds: its code, record and line."""
    links = sealed(0, GENESIS, records)
    finding = _verify(exported(links, [len(links)])).finding
    return None if finding is None else (finding.code, finding.sequence, finding.line)


def test_every_outcome_of_a_signature_has_an_intent() -> None:
    """Of a refund or a digest, in any order, and one intent for each outcome."""
    intents, outcomes = [intent(1), intent(2, None)], [outcome(3), outcome(4)]

    assert _signatures(intents[0], outcomes[0]) is None
    assert _signatures(outcomes[0], intents[0]) is None
    assert _signatures(*intents) is None  # Their processes died.
    assert _signatures(outcomes[0]) == ("unrequested", 1, 2)
    assert _signatures(intents[0], *outcomes) == ("unrequested", 3, 4)
    assert _signatures(intents[0], outcome(3, refund_id="rf_2")) == (
        "unrequested", 2, 3,
    )  # fmt: skip
    assert _signatures(intents[1], outcomes[0]) == ("unrequested", 2, 3)


def test_the_outcome_of_a_batch_has_the_intent_of_its_reservation() -> None:
    """Which has no digest yet; the list of refunds names it."""
    reserved = log_at(1).intent(batch_purpose("a0"), SUBJECT)
    signed = [
        log_at(second).outcome(
            batch_purpose(composition),
            SUBJECT,
            digest=DIGEST,
            outcome="success",
            seconds=0.01,
        )
        for second, composition in ((2, "a0"), (3, "b1"))
    ]

    assert _signatures(reserved, signed[0]) is None
    assert _signatures(reserved, *signed) == ("unrequested", 3, 4)


def test_a_forged_outcome_is_not_a_finding() -> None:
    """A later record declares it."""
    forged = outcome(1)

    assert _signatures(forged, DRAFTS.forged([forged.id])) is None


def test_a_forged_outcome_does_not_accuse_a_genuine_one() -> None:
    """It comes between the intent and the outcome of a signature, as if it was both."""
    genuine, forged, again = outcome(3), outcome(2), outcome(4)
    declared = DRAFTS.forged([forged.id])

    assert _signatures(intent(1), forged, genuine, declared) is None
    assert _signatures(intent(1), forged, genuine, again, declared) == (
        "unrequested", 3, 4,
    )  # fmt: skip
    assert _signatures(forged, again, declared) == ("unrequested", 2, 3)
    # The search does not end with the work of the forged one.
    assert _signatures(
        *(intent(1), forged, genuine, outcome(5, refund_id="rf_2"), declared)
    ) == ("unrequested", 4, 5)


def test_intents_of_one_refund_are_counted() -> None:
    """Its worker died twice; a record that only quotes an event is no signature."""
    quoted = record(reason="digest-sign-succeeded")

    assert _signatures(intent(1), intent(2), outcome(3), quoted) is None
    assert _signatures(intent(1), intent(2), *map(outcome, (3, 4, 5))) == (
        "unrequested", 5, 6,
    )  # fmt: skip
