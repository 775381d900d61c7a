"""What log files of several hosts prove, and what in them proves nothing."""

import gzip
import io
import json
import os
import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api.extras.restore.evidence import MAX_LINE, Evidence, read_evidence
from api.logs import audit_logger
from signer.audit.hash_chain import GENESIS, sealed
from signer.audit.log import AuditLog
from signer.errors import InvalidInputError
from signer.model.audit_record import Record
from signer.row_macs import RowMACs
from tests.support.audit import START, chain, exported
from tests.support.ledgers import ROW_MACS
from tests.unit.signer.audit.hostile_records import HOSTILE


OTHER_MACS = RowMACs({"others": bytes(32)})

# The same id as that of the tests' key.
THIEF = RowMACs({"tests": bytes(32)})

NOISE = b'{"event":"refund-delayed","level":"warning","logger":"worker"}\n'


def drafted(
    number: int, *, node: str = "host-1", event: str = "test", macs: RowMACs = ROW_MACS
) -> Record:
    """Return a record with its MAC, drafted *number* seconds after ``START``."""
    fields = {"actor": "worker", "event": event, "node": node, "number": number}
    record = Record.of(fields, START + timedelta(seconds=number))
    return Record(record.id, record.body, macs.compute(record))


def lines(records: Iterable[Record]) -> list[bytes]:
    """Return the lines of *records* in a log, each with its line feed."""
    stream = io.StringIO()
    AuditLog(audit_logger(stream)).log(*records)
    return stream.getvalue().encode().splitlines(keepends=True)


def counted(evidence: Evidence) -> dict[str, int]:
    """Return the counts of the summary that are not 0."""
    counts = asdict(evidence.summary).items()
    return {name: each for name, each in counts if isinstance(each, int) and each}


RECORDS = [drafted(number) for number in range(6)]


class Folder:
    """Files of a test."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._number = 0

    def write(self, *lines: bytes, name: str = "log") -> Path:
        """Write *lines* to a new file, and return its path."""
        self._number += 1
        path = self._path / f"{self._number}-{name}"
        path.write_bytes(b"".join(lines))
        return path


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def read(folder: Folder, *lines: bytes) -> Evidence:
    """Return the evidence in one file of *lines*."""
    return read_evidence([folder.write(*lines)], ROW_MACS)


def test_the_records_of_all_hosts_are_in_the_order_of_their_times(
    folder: Folder,
) -> None:
    """Files may overlap, and have other lines; each record is returned once."""
    records = [drafted(n, node=f"host-{n % 2}") for n in range(10)]
    own = [lines(records[first::2]) for first in range(2)]
    files = [
        folder.write(*own[1][2:]),
        folder.write(NOISE, *own[0], b"\n", b"plain text\n", NOISE),
        folder.write(*own[1][:3]),
    ]

    evidence = read_evidence(files, ROW_MACS)

    assert evidence.records == records
    assert counted(evidence) == {"lines": 15, "records": 10, "authentic": 11}
    assert {
        node: (each.lines, each.first - START, each.last - START)
        for node, each in evidence.summary.hosts.items()
    } == {
        "host-0": (5, timedelta(0), timedelta(seconds=8)),
        "host-1": (6, timedelta(seconds=1), timedelta(seconds=9)),
    }
    for number, entry in enumerate(evidence):
        assert entry.record == records[number]
        assert entry.fields["number"] == number
        assert entry.at == START + timedelta(seconds=number)


@given(st.lists(st.sampled_from(RECORDS), max_size=20), st.randoms())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_order_of_lines_does_not_matter(
    folder: Folder, chosen: Sequence[Record], shuffle: random.Random
) -> None:
    mixed = list(chosen)
    shuffle.shuffle(mixed)

    assert read(folder, *lines(mixed)).records == [
        each for each in RECORDS if each in chosen
    ]


def test_an_export_has_the_same_records_as_the_log(folder: Folder) -> None:
    """A configuration's record, whose line is redacted, is in the export only."""
    configuration = drafted(7, event="configuration-loaded")
    written = [*RECORDS, configuration]
    links = sealed(0, GENESIS, written)
    export = folder.write(*exported(links, [7]), name="audit.jsonl")
    log = folder.write(*lines(written))

    evidence = read_evidence([log, export], ROW_MACS)

    assert evidence.records == written
    # Nothing was redacted in this one, so that its line is valid as well.
    assert evidence.summary.authentic == 14
    assert read_evidence([export], ROW_MACS).summary.lines == 10


def test_an_export_of_an_earlier_version_has_no_macs(folder: Folder) -> None:
    evidence = read(folder, *exported(chain(3), [3]))

    assert evidence.records == []
    assert counted(evidence) == {"lines": 6, "without_mac": 3}


def test_a_redacted_line_proves_nothing(folder: Folder) -> None:
    fields = {"event": "configuration-loaded", "details": {"token": "x"}}
    record = Record.of(fields, START)
    mac = ROW_MACS.compute(record)

    evidence = read(folder, *lines([Record(record.id, record.body, mac)]))

    assert counted(evidence) == {"lines": 1, "redacted": 1}


def test_what_has_no_valid_mac_is_counted(folder: Folder) -> None:
    """A person who can write files cannot invent a refund."""
    honest = lines(RECORDS[:1])[0]
    plain = Record(RECORDS[1].id, RECORDS[1].body)
    stolen = Record(RECORDS[1].id, RECORDS[1].body, RECORDS[2].mac)

    evidence = read(
        folder,
        honest.replace(b'"number":0', b'"number":9'),
        honest.replace(b'"event":"test"', b'"event":"test","added":1'),
        honest.replace(RECORDS[0].id.encode(), RECORDS[1].id.encode()),
        *lines([drafted(3, macs=THIEF), stolen]),
        *lines([plain, drafted(3, macs=OTHER_MACS)]),
    )

    assert evidence.records == []
    assert counted(evidence) == {
        "lines": 7,
        "forged": 5,
        "without_mac": 1,
        "unknown_key": 1,
    }
    assert evidence.summary.hosts == {}


def test_all_keys_of_the_file_verify(folder: Folder) -> None:
    """Records from before a rotation of the MAC key count."""
    both = RowMACs({"others": bytes(32), "tests": b"\x07" * 32})
    older = drafted(1, macs=OTHER_MACS)
    path = folder.write(*lines([RECORDS[0], older]))

    assert read_evidence([path], both).records == [RECORDS[0], older]


LINES = lines(RECORDS)


@pytest.mark.parametrize(
    "written",
    [
        [b"Nov 24 21:12:41 host-1 hotwallet[812]: " + line for line in LINES],
        [b"2026-11-24T21:12:41.730112Z stdout F " + line for line in LINES],
        [b"\xff\xfe " + line for line in LINES],
        [line.replace(b"\n", b"\r\n") for line in LINES],
        [
            line.replace(b"\n", b"\r\n")
            for line in exported(sealed(0, GENESIS, RECORDS), [6])
        ],
        [*LINES[:-1], LINES[-1].rstrip()],
        *(
            [b"x" * (length - 1) + b"\n", *LINES]
            for length in (MAX_LINE - 1, MAX_LINE, MAX_LINE + 1)
        ),
    ],
    ids=range(9),
)
def test_forms_of_a_whole_log(folder: Folder, written: Sequence[bytes]) -> None:
    """Prefixes of log stores, Windows' ends, no last one, and one overlong line."""
    evidence = read(folder, *written)

    assert evidence.records == RECORDS
    assert (evidence.summary.malformed, evidence.summary.lines) == (0, len(written))


@pytest.mark.parametrize("kept", [1, 30, 60, -2])
def test_a_line_after_a_torn_one_counts(folder: Folder, kept: int) -> None:
    """A disk that was full ends a line anywhere, and another process goes on."""
    torn, *rest = lines(RECORDS)

    evidence = read(folder, torn[:kept], *rest, torn[kept:])

    assert evidence.records == RECORDS[1:]
    assert evidence.summary.malformed == (1 if b'"record_id"' in torn[kept:] else 0)


def test_a_damaged_gzip_file_is_named(folder: Folder) -> None:
    """The lines before the damage count."""
    noise = os.urandom(100_000).hex().encode()  # It does not shrink.
    whole = gzip.compress(b"".join(lines(RECORDS[:3])) + noise)
    spoilt = bytearray(whole)
    spoilt[-20_000:-19_000] = bytes(1000)
    cut, changed = folder.write(whole[:-10_000]), folder.write(bytes(spoilt))
    good = folder.write(gzip.compress(b"".join(lines(RECORDS))))

    for bad in (cut, changed):
        evidence = read_evidence([bad, good], ROW_MACS)
        alone = read_evidence([bad], ROW_MACS)

        assert evidence.records == RECORDS
        assert evidence.summary.damaged == alone.summary.damaged == (str(bad),)
        assert alone.records == RECORDS[:3]


def test_a_file_that_cannot_be_opened_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="missing cannot be read"):
        read_evidence([tmp_path / "missing"], ROW_MACS)
    with pytest.raises(InvalidInputError, match="IsADirectoryError"):
        read_evidence([tmp_path], ROW_MACS)


ID = RECORDS[0].id.encode()

BAD_LINES = [
    b'{"record_id":',
    b'"record_id"',
    b'{"record_id":"%s"' % ID,
    b'{"record_id":"au_0"}',
    b'{"record_id":7}',
    b'{"a":1,"a":2,"record_id":"%s"}' % ID,
    b'{"a":NaN,"record_id":"%s"}' % ID,
    b'{"a":1e400,"record_id":"%s"}' % ID,
    b'{"a":"\xff","record_id":"%s"}' % ID,
    b'{"a":"\\ud800","record_id":"%s"}' % ID,
    b'{"a":%s,"record_id":"%s"}' % (b"9" * 100_000, ID),
    b'{"record_id":"%s","a":' % ID + b"[" * 400_000,
    b'{"record_id":"%s","a":' % ID + b'{"actor":' * 100_000,
    b'{"actor":' * 100_000 + b'"record_id"' + b"}" * 100_000,
    b'\xef\xbb\xbf["record_id"]',
    b'{"record_id":"%s","mac":["x"]}' % ID,
    b'{"hash":"","id":"","record":{},"sequence":1}',
    b'{"hash":' + b"[" * 400_000,
    b'{"hash":"\xff"}',
]


@pytest.mark.parametrize("line", BAD_LINES, ids=range(len(BAD_LINES)))
def test_hostile_lines_are_skipped(folder: Folder, line: bytes) -> None:
    """None ends the reading, or takes long."""
    good = lines(RECORDS)
    began = time.process_time()

    evidence = read(folder, *good[:3], line + b"\n", *good[3:])

    assert evidence.records == RECORDS
    assert evidence.summary.malformed + evidence.summary.without_mac == 1
    assert time.process_time() - began < 10


def test_an_authentic_record_without_a_time_is_malformed(folder: Folder) -> None:
    """No process of the service makes such an id, although it has the right form."""
    record = Record("au_" + "f" * 32, RECORDS[0].body)
    mac = ROW_MACS.compute(record)

    evidence = read(folder, *lines([Record(record.id, record.body, mac)]))

    assert counted(evidence) == {"lines": 1, "malformed": 1}


def test_records_of_another_form_in_an_export_are_skipped(folder: Folder) -> None:
    """Such as a database role can insert; those lines are in base64."""
    links = sealed(0, GENESIS, [RECORDS[0], *HOSTILE, RECORDS[1]])

    evidence = read(folder, *exported(links, [len(links)]))

    assert evidence.records == RECORDS[:2]
    assert evidence.summary.authentic == 2


@pytest.mark.parametrize("compressed", [False, True])
def test_a_huge_line_is_skipped(folder: Folder, compressed: bool) -> None:
    """Only its beginning is kept in memory."""
    good = lines(RECORDS)
    parts = [good[0], b'{"record_id":"', b"x" * 20 * MAX_LINE, b'"}\n', *good[1:]]
    content = b"".join(parts)

    evidence = read(folder, gzip.compress(content, 1) if compressed else content)

    assert evidence.records == RECORDS
    assert counted(evidence)["malformed"] == 1
    assert counted(evidence)["lines"] == 7


@given(st.lists(st.binary(max_size=60) | st.sampled_from(lines(RECORDS)), max_size=8))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_read(folder: Folder, parts: Sequence[bytes]) -> None:
    """Only authentic records are returned, and nothing that is around them."""
    # The first line is not that of a gzip file, which would be damaged.
    evidence = read(folder, b"\n", b"\n".join(parts))

    assert set(evidence.records) <= set(RECORDS)
    assert set(evidence.records) >= {
        each
        for each, line in zip(RECORDS, lines(RECORDS), strict=True)
        if line in parts
    }


def test_the_text_of_a_record_is_no_other_record(folder: Folder) -> None:
    """A caller's text may look like a line; its quotes are escaped."""
    inner = lines([RECORDS[1]])[0].decode()
    fields = {"actor": inner, "event": "test", "node": inner}
    record = Record.of(fields, START)
    outer = Record(record.id, record.body, ROW_MACS.compute(record))

    evidence = read(folder, *lines([outer]))

    assert evidence.records == [outer]
    assert json.loads(evidence.records[0].body)["actor"] == inner
