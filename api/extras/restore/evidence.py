"""
Reads audit records from log files and exports, as evidence of what a ledger has lost.

The log of each host is the second journal: no signature is made unless the line of its
intent was written.  A person who can write log files can add lines, change and remove
them.  So a record counts only with its MAC, and the reader must know all files.
"""

import gzip
import os
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from api.extension import open_shipped_log
from backends.record_sequences import RecordSequences
from signer.audit.checkpoints import Verifier
from signer.audit.export import Part, Raw, RawReader, parse
from signer.audit.log import parse_line
from signer.audit.verify import FoundError, Verification
from signer.errors import HotWalletError, InvalidInputError
from signer.model.audit_record import Record, Sealed, made_at
from signer.row_macs import RowMACs


MAX_LINE = 1_000_000
"""A limit in bytes far above the length of any audit line."""

_GZIP = b"\x1f\x8b"


class DamagedFileError(InvalidInputError):
    """The rest of a file cannot be read; the lines before it were."""


def read_lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of the file *path*; of an overlong one, only its beginning."""
    try:
        file = path.open("rb")
    except OSError as e:
        raise InvalidInputError(f"{path} cannot be read ({type(e).__name__})") from None
    with file:
        try:
            is_gzip = file.peek(len(_GZIP)).startswith(_GZIP)
            stream = gzip.GzipFile(fileobj=file) if is_gzip else file
            yield from _lines(cast("BinaryIO", stream))
        except (OSError, EOFError, zlib.error) as e:
            raise DamagedFileError(
                f"{path} is damaged or incomplete ({type(e).__name__}): copy it again"
            ) from None


_NO_GAPS = {"checkpoint", "unsigned", "overdue", "undeclared", "unrequested"}
"""Findings about the checkpoints, and about what another program wrote."""


def _read_shipped(url: str, verifier: Verifier) -> Iterator[bytes]:
    """Yield the lines of the log at *url*, and verify that none is missing."""
    log, problem = open_shipped_log(url, os.environ), ""
    try:
        yield from _verified(log.lines(), verifier)
    except FoundError as e:
        problem = "" if e.finding_code in _NO_GAPS else str(e)
    except HotWalletError as e:
        problem = str(e)
    if log.replaced and not problem:
        problem = f"another program wrote above {log.replaced[0]}"
    if problem:
        raise DamagedFileError(f"{url}: {problem}")


def _verified(lines: Iterable[bytes], verifier: Verifier) -> Iterator[bytes]:
    """Yield *lines*, and raise the first finding after the last one."""
    verification = Verification(verifier, sequences=RecordSequences())
    found: FoundError | None = None
    for line in lines:
        yield line
        try:
            if found is None:
                verification.read(line)
        except FoundError as e:
            found = e
    if found is not None:
        raise found
    verification.close()


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    while line := stream.readline(MAX_LINE):
        yield line
        while len(line) == MAX_LINE and not line.endswith(b"\n"):
            line = stream.readline(MAX_LINE)


# A line of the log has this name.  In a string, its quotes would be escaped.
_LOGGED = b'"record_id"'

_EXPORTED = b'{"hash":', b'{"part":'

# The first field of each record.
_RECORD = b'{"actor":'

_CONFIGURATION = '"event":"configuration-'


class Entry(NamedTuple):
    """An authentic record, its fields, and when it was drafted, to the millisecond."""

    record: Record
    fields: Mapping[str, Any]
    at: datetime


@dataclass(frozen=True, slots=True)
class HostEvidence:
    """The authentic records of one host: how many lines, and the times they span."""

    lines: int
    first: datetime
    last: datetime

    def including(self, at: datetime) -> "HostEvidence":
        """Return the same with one more line, of a record drafted *at* that time."""
        return HostEvidence(self.lines + 1, min(self.first, at), max(self.last, at))


@dataclass(frozen=True, slots=True)
class EvidenceSummary:
    """
    What the files contain, in lines; one record may be in several.

    ``records`` is the number of different records that are returned.

    * ``authentic`` lines have a record with a valid MAC.  ``hosts`` has them by node.
    * ``redacted`` ones are of a configuration: they cannot be verified.
    * ``without_mac`` are from before the lines had MACs, or of a library.
    * ``unknown_key`` have a MAC by a key that ``MAC_KEY_FILE`` does not have.
    * ``forged`` have a MAC that does not fit: the line was changed or invented.
    * ``malformed`` look like audit records and are none; a disk that was full may have
      torn them.

    ``damaged`` names the files whose end could not be read.
    """

    lines: int = 0
    records: int = 0
    authentic: int = 0
    redacted: int = 0
    without_mac: int = 0
    unknown_key: int = 0
    forged: int = 0
    malformed: int = 0
    hosts: Mapping[str, HostEvidence] = field(default_factory=dict)
    damaged: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Evidence:
    """
    Authentic records, in the order of their times, and what the files contain.

    ``unverified`` has the other records that lines are about, without their bodies: if
    a ledger does not have one of them, the files are no complete evidence for it.
    """

    records: Sequence[Record]
    summary: EvidenceSummary
    unverified: Sequence[Record] = ()

    def __iter__(self) -> Iterator[Entry]:
        """Yield each record with its fields, which take more memory than its text."""
        for record in self.records:
            yield Entry(record, record.fields, _read_time(record))


def read_evidence(
    paths: Iterable[Path | str], macs: RowMACs, verifier: Verifier | None = None
) -> Evidence:
    """
    Read the files *paths*, in any order, also with the same records.  A text is the URL
    of a shipped log; *verifier* verifies its checkpoints.

    A file has log lines or is an export, plain or compressed with gzip.  Other lines
    are skipped.  A log line may follow a prefix of the log store.  Each record that is
    returned needs about 1.5 KB of memory.

    Raises:
        InvalidInputError: A file cannot be opened.
    """
    reader = _Reader(macs)
    damaged = []
    for path in paths:
        try:
            if isinstance(path, str):
                lines = _read_shipped(path, verifier or Verifier())
            else:
                lines = read_lines(path)
            for line in lines:
                reader.read(line)
        except DamagedFileError:
            damaged.append(str(path))
    return reader.evidence(damaged)


class _Reader:
    """Collects the records of lines, which come in any order."""

    def __init__(self, macs: RowMACs) -> None:
        self._macs = macs
        self._records = dict[str, Record]()
        self._raw = RawReader()
        self._counts = Counter[str]()
        self._hosts = dict[str, HostEvidence]()
        # The ids of all records with a valid MAC, and of those without one.
        self._verified = set[str]()
        self._unverified = set[str]()

    def read(self, line: bytes) -> None:
        """Add the record of *line*, if it has one."""
        self._counts["lines"] += 1
        try:
            record = self._parse(line)
            if record is not None:
                self._counts[self._add(record)] += 1
        except InvalidInputError:
            self._counts["malformed"] += 1

    def evidence(self, damaged: Sequence[str]) -> Evidence:
        """Return what was read; *damaged* are the files that ended early."""
        counts = self._counts
        summary = EvidenceSummary(
            lines=counts["lines"],
            records=len(self._records),
            authentic=counts["authentic"],
            redacted=counts["redacted"],
            without_mac=counts["without_mac"],
            unknown_key=counts["unknown_key"],
            forged=counts["forged"],
            malformed=counts["malformed"],
            hosts=dict(sorted(self._hosts.items())),
            damaged=tuple(damaged),
        )
        ordered = sorted(self._records.values(), key=lambda record: record.id)
        missing = sorted(self._unverified - self._verified)
        return Evidence(ordered, summary, [Record(id_, "") for id_ in missing])

    def _add(self, record: Record) -> str:
        """Add *record* if it is authentic; return what its line counts as."""
        at = _read_time(record)
        if not self._macs.is_valid(record.mac, record):
            problem = self._find_problem(record)
            if problem != "redacted":
                self._unverified.add(record.id)
            return problem
        self._verified.add(record.id)
        node = str(record.fields.get("node"))
        host = self._hosts.get(node) or HostEvidence(0, at, at)
        self._hosts[node] = host.including(at)
        self._records.setdefault(record.id, record)
        return "authentic"

    def _find_problem(self, record: Record) -> str:
        if _CONFIGURATION in record.body:
            return "redacted"
        if record.mac is None:
            return "without_mac"
        return "forged" if self._macs.has_key(record.mac) else "unknown_key"

    def _parse(self, line: bytes) -> Record | None:
        """Return the record of *line*; None if the line is of another kind."""
        if line.startswith(_EXPORTED):
            match parsed := parse(line.rstrip(b"\r\n") + b"\n"):
                case Sealed():
                    return parsed.record
                case Raw():
                    return self._raw.join(parsed).record
                case Part():
                    self._raw.add(parsed)
            return None
        if _LOGGED not in line:
            return None
        begin = max(line.find(b"{"), 0)
        try:
            return parse_line(line[begin:])
        except InvalidInputError:
            # A write that failed may have left the beginning of its line before it.
            last = line.rfind(_RECORD)
            if last <= begin:
                raise
            return parse_line(line[last:])


def _read_time(record: Record) -> datetime:
    """Return when *record* was drafted; raises ``InvalidInputError``."""
    at = made_at(record.id)
    if at is None:
        raise InvalidInputError("the id of the record has no time")
    return at
