"""
What administrators changed in a period, and which checks failed, from a verified log.

The lines of a report::

    {"after":"…","format":"hotwallet-audit-report/1","from":"…","origin":"…",
     "through":"…","to":"…"}
    {"hash":"9f…","id":"au_…","record":{…},"sequence":812,"subjects":["keys"]}
    {"counts":{…},"not_recorded":[…]}
    {"signature":"…"}                                    if a key signs it

The checkpoints ``after`` and ``through`` bracket the period: every record between them
is on a line or in ``counts``.  So the clocks of the hosts that wrote the records decide
nothing.  The bracket goes from the checkpoint before the first one that was signed in
the period to the one after the last.  A checkpoint whose time is too late makes it
longer.  The records of one whose time is too early are in the report of the period
before.  A record with a time outside of the period is marked.

A report follows from the log, its checkpoints and the period alone.  So two people who
have the same export make the same report.
"""

import hashlib
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import islice, zip_longest
from typing import Any

import rfc8785

from signer import strict_json
from signer.audit import checkpoints
from signer.audit.actions import (
    ALERT_RAISED,
    SUCCESS,
    AuditAction,
    ConfigurationEvent,
)
from signer.audit.checkpoints import (
    KEY_ID_BYTES,
    CheckpointKey,
    Statement,
    Verifier,
)
from signer.audit.export import ExportHeader, LineReader, Note, RawRecord, parse
from signer.audit.hash_chain import EVENT as FORGED
from signer.audit.hash_chain import parse_canonical, read_fields
from signer.audit.signed_approvals import GRANTS
from signer.audit.verify import ExportVerdict, Sequences, verify
from signer.errors import InvalidInputError
from signer.model.audit_record import Sealed


FORMAT = "hotwallet-audit-report/1"

_KIND = "report of a period of hotwallet audit records 1"
"""The second line of the signed text."""

_PAYMENTS = "payments"

_CHECKS = "checks"

SUBJECTS: Mapping[str, str] = {
    "keys": "Keys",
    "people": "People, approvals and tenants",
    "rules": "Rules and limits",
    "starts": "Configuration and starts",
    "stops": "Stops, blocks and wallets",
    "restores": "Restores",
    _CHECKS: "Failed checks and refusals",
    "others": "Other actions",
    "unknown": "Records of an unknown kind",
}
"""What a line is about, and the title of its section."""

_OF_WORDS = {
    "key": "keys",
    "approval": "people",
    "admin": "people",
    "limits": "rules",
    "service": "starts",
    "signing": "stops",
    "tenant": "stops",
    "nonce": "stops",
    "foreign": "stops",
    "ledger": "restores",
    "webhook": "others",
    "doctor": "others",
    "drill": "others",
    "digest": _PAYMENTS,
    "refund": _PAYMENTS,
}
"""The subject of an action, by its first word.  Payments that succeed are counted."""

_ENDS = frozenset({"requested", "succeeded", "refused"})

_OF_PEOPLE = frozenset({"approvers", "tenants"})
"""The parts of a configuration that say who may ask and approve."""

NOT_RECORDED = (
    "Who has which rights and tokens at the identity provider, and its keys.",
    "Changes of the MAC key and of the keys of webhooks.",
    "Changes of hosts, database roles, nodes and the rights to a KMS key.",
    "The text of DENY_LIST_FILE, and settings that are no part of the configuration.",
    "Processes that could not open the ledger: see the logs of their hosts (exit 78).",
    "Alerts that only make a ticket, and when the problem of an alert ended.",
    "What `hotwallet doctor`, `audit verify` and `audit reconcile` found.",
    "Backups put in place without `hotwallet restore`, unless a checkpoint was kept.",
)
"""What cannot be known from the log."""


@dataclass(frozen=True, slots=True)
class ReportPeriod:
    """From ``start`` up to, and without, ``end``; raises ``InvalidInputError``."""

    start: datetime
    end: datetime

    def __post_init__(self) -> None:
        if self.start >= self.end:
            raise InvalidInputError("the period must begin before it ends")

    def has(self, timestamp: object) -> bool:
        try:
            return self.start <= datetime.fromisoformat(str(timestamp)) < self.end
        except (ValueError, TypeError):  # No time, or one without a zone.
            return False


@dataclass(frozen=True, slots=True)
class _Edge:
    """A checkpoint of the log, on ``line``, and the digest of all lines up to it."""

    size: int
    note: str | None
    line: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class _Trust:
    """What makes a checkpoint one of this log: a trusted key, and its *origin*."""

    verifier: Verifier
    origin: str

    def verify(self, note: str) -> Statement | None:
        with suppress(InvalidInputError):
            statement = self.verifier.verify(note)
            return statement if statement.origin == self.origin else None
        return None


class _Bracket:
    """Finds the checkpoints that bracket *period*, while others read the lines."""

    def __init__(self, period: ReportPeriod, verifier: Verifier) -> None:
        self._period = period
        self._trust = _Trust(verifier, "")
        self._digest = hashlib.sha256()
        self._last = _Edge(0, None, 0, b"")
        self.after: _Edge | None = None
        self.through: _Edge | None = None

    def watch(self, lines: Iterable[bytes]) -> Iterator[bytes]:
        for number, line in enumerate(lines, 1):
            self._digest.update(line)
            yield line  # First, so that the others refuse what is malformed.
            if line.startswith((b'{"checkpoint"', b'{"format"')):
                self._read(line, number)

    def _read(self, line: bytes, number: int) -> None:
        found = None
        with suppress(InvalidInputError):
            found = parse(line)
        if isinstance(found, ExportHeader):
            self._trust = replace(self._trust, origin=found.origin)
        elif isinstance(found, Note):
            statement = self._trust.verify(found.note)
            if statement is not None:
                self._add(statement, found.note, number)

    def _add(self, statement: Statement, note: str, number: int) -> None:
        edge = _Edge(statement.size, note, number, self._digest.digest())
        if self.after is None and statement.at >= self._period.start:
            self.after = self._last
        if self.after is not None:
            is_beyond = statement.at >= self._period.end
            self.through = (self.through or edge) if is_beyond else None
        self._last = edge


@dataclass(slots=True)
class _Approval:
    """A proposal, as the log has it."""

    action: str
    asked: int
    granted: list[dict[str, Any]] = field(default_factory=list)


class _Collector:
    """Collects the lines of a report from the entries of a log."""

    def __init__(
        self, period: ReportPeriod, after: int, forged: Mapping[int, int]
    ) -> None:
        self._period = period
        self._after = after
        self._forged = forged
        self._approvals: dict[str, _Approval] = {}
        self._events = Counter[str]()
        self._keys = Counter[str]()
        self._ignored = 0
        self.lines: list[Mapping[str, Any]] = []

    def add(self, each: Sealed, *, is_plain: bool) -> None:
        """Add a record, which *is_plain* if it has the form of the service's."""
        is_inside = each.sequence > self._after
        place = {"sequence": each.sequence, "hash": each.hash.hex()}
        fields = read_fields(each.record)
        if (by := self._forged.get(each.sequence)) is not None:
            # What is declared forged stays visible: the declaration may be the lie.
            found = {"record": _without_document(fields)} if is_plain else {}
            if is_inside:
                line = {**place, "forged_by": by, "subjects": [_CHECKS], **found}
                self.lines.append(line)
            return
        approval = self._follow(each.sequence, fields)
        if not is_inside:
            return
        event = str(fields.get("event"))
        self._events[event] += 1
        subjects = _subjects(event, fields, approval)
        if not subjects:
            return
        line = {**place, "id": each.record.id, "subjects": subjects}
        if not self._period.has(fields.get("timestamp")):
            line["is_outside"] = True
        if approval is not None:
            line["approval"] = {
                "action": approval.action,
                "asked": approval.asked,
                "granted": list(approval.granted),
            }
        self.lines.append({**line, "record": _without_document(fields)})

    def count(self, note: str, trust: _Trust) -> None:
        """Count a checkpoint, by the ids of the keys that signed it."""
        if trust.verify(note) is not None:
            signatures = checkpoints.parse(note).signatures
            self._keys.update(each[:KEY_ID_BYTES].hex() for _, each in signatures)
        else:
            self._ignored += 1

    def summary(self) -> Mapping[str, Any]:
        forged = sum("forged_by" in each for each in self.lines)
        counts = {
            "records": self._events.total() + forged,
            "listed": len(self.lines),
            "forged": forged,
            "checkpoints": dict(self._keys),
            "ignored_checkpoints": self._ignored,
            "events": dict(self._events),
        }
        return {"counts": counts, "not_recorded": list(NOT_RECORDED)}

    def _follow(self, sequence: int, fields: Mapping[str, Any]) -> _Approval | None:
        """Follow approvals; return the one that a record uses, if it names one."""
        event, details = str(fields.get("event")), fields.get("details")
        if not isinstance(details, dict):
            return None
        digest = str(details.get("digest"))
        if event == _ASKED:
            self._approvals[digest] = _Approval(_action_of(details), sequence)
        elif event in GRANTS and digest in self._approvals:
            by = details.get("approver") or fields.get("actor")
            grant = {"sequence": sequence, "by": by, "event": event}
            self._approvals[digest].granted.append(grant)
        elif event == _USED:
            return self._approvals.get(digest)
        elif event in _NAMING:
            return self._approvals.get(str(details.get("approval")))
        return None


_ASKED = AuditAction.APPROVAL_REQUEST.event_for(SUCCESS)
_USED = AuditAction.APPROVAL_USE.event_for(SUCCESS)
_NAMING = frozenset({AuditAction.LIMITS_RAISE.event_for(SUCCESS)})
"""Changes whose record has the digest of their approval."""


def _action_of(details: Mapping[str, Any]) -> str:
    try:
        return str(strict_json.parse(str(details["proposal"]).encode())["action"])
    except (InvalidInputError, LookupError):
        return ""


def _subjects(
    event: str, fields: Mapping[str, Any], approval: _Approval | None
) -> list[str]:
    """Return what a record is about; nothing if it is only counted."""
    if event in {FORGED, ALERT_RAISED}:
        return [_CHECKS]
    if event == ConfigurationEvent.LOADED:
        return ["starts"]
    if event == ConfigurationEvent.CHANGED:
        return _changed(fields)
    action, _, end = event.rpartition("-")
    if end not in _ENDS:
        return ["unknown"]
    found = {_subject_of(action)}
    if approval is not None and approval.action in set(AuditAction):
        found.add(_subject_of(approval.action))
    if end == "refused":
        found.add(_CHECKS)
    return [each for each in SUBJECTS if each in found]


def _subject_of(action: str) -> str:
    if action not in set(AuditAction):
        return "unknown"
    return _OF_WORDS.get(action.partition("-")[0], "unknown")


def _changed(fields: Mapping[str, Any]) -> list[str]:
    """Return what a changed configuration is about."""
    details = fields.get("details")
    changes = details.get("changes") if isinstance(details, dict) else None
    paths = changes if isinstance(changes, dict) and changes else ("",)
    parts = {path.partition(".")[0] for path in paths}
    found = ["people"] if parts & _OF_PEOPLE else []
    return [*found, "rules"] if parts - _OF_PEOPLE else found


def _without_document(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return *fields* without the text of a configuration, which the log has."""
    details = fields.get("details")
    if not isinstance(details, dict):
        return fields
    kept = {name: each for name, each in details.items() if name != "document"}
    return {**fields, "details": kept}


@dataclass(frozen=True, slots=True)
class Report:
    """The lines of a report without a signature; None if the log does not verify."""

    verdict: ExportVerdict
    lines: Sequence[bytes] | None


def make_report(
    read: Callable[[], Iterable[bytes]],
    period: ReportPeriod,
    verifier: Verifier,
    notes: Sequence[str],
    sequences: Sequences,
) -> Report:
    """
    Verify the log that *read* returns, twice the same, and report the *period*.

    *notes* and *sequences* are as for ``verify``.

    Raises:
        InvalidInputError: No checkpoint shows that the period is over, a note is not by
            a trusted key, or the log has changed meanwhile.
    """
    bracket = _Bracket(period, verifier)
    verdict = verify(bracket.watch(read()), verifier, notes, sequences)
    if not verdict.is_good:
        return Report(verdict, None)
    after, through = bracket.after, bracket.through
    if after is None or through is None:
        raise InvalidInputError(
            f"no checkpoint was signed after {period.end.isoformat()}, so the log does"
            " not show that the period is complete: once there is a later record"
            " (`hotwallet doctor` writes one), run `hotwallet audit checkpoint --new`,"
            " and export again"
        )
    forged = {each.sequence: each.declared_by for each in verdict.forged}
    collector = _Collector(period, after.size, forged)
    trust = _Trust(verifier, str(verdict.origin))
    digest = hashlib.sha256()
    reader = LineReader()
    for number, line in enumerate(islice(read(), through.line), 1):
        digest.update(line)
        entry = reader.read(line)
        if isinstance(entry, Note) and number > after.line:
            collector.count(entry.note, trust)
        each = entry.sealed if isinstance(entry, RawRecord) else entry
        if isinstance(each, Sealed):
            collector.add(each, is_plain=entry is each)
    if digest.digest() != through.digest:
        raise InvalidInputError("the log has changed while it was read: try again")
    header = {
        "format": FORMAT,
        "origin": verdict.origin,
        "from": period.start.astimezone(UTC).isoformat(),
        "to": period.end.astimezone(UTC).isoformat(),
        "after": after.note,
        "through": through.note,
    }
    return Report(
        verdict, [*map(_line, (header, *collector.lines, collector.summary()))]
    )


def sign(lines: Sequence[bytes], origin: str, key: CheckpointKey) -> bytes:
    """Return the last line of a signed report."""
    return _line({"signature": key.sign_text(origin, _signed_text(lines, origin))})


def read_report(lines: Sequence[bytes]) -> tuple[ReportPeriod, str | None]:
    """Return the period of a report, and its signature; raises InvalidInputError."""
    try:
        header = parse_canonical(lines[0].removesuffix(b"\n"))
        last = parse_canonical(lines[-1].removesuffix(b"\n"))
        if header["format"] != FORMAT:
            raise InvalidInputError(f"it is no report in the format {FORMAT}")
        start, end = (datetime.fromisoformat(header[each]) for each in ("from", "to"))
    except (LookupError, TypeError, ValueError):
        raise InvalidInputError("it is no report of a period") from None
    return ReportPeriod(start, end), last.get("signature")


def find_problems(
    lines: Sequence[bytes], expected: Sequence[bytes], verifier: Verifier
) -> Iterator[str]:
    """Yield how the *lines* of a report differ from those that the log gives."""
    _, signature = read_report(lines)
    if signature is not None:
        *lines, _ = lines
        origin = str(parse_canonical(expected[0].removesuffix(b"\n"))["origin"])
        try:
            verifier.verify_text(origin, _signed_text(lines, origin), str(signature))
        except InvalidInputError as e:
            yield f"the signature of the report: {e}"
    for number, (found, due) in enumerate(zip_longest(lines, expected), 1):
        if found != due:
            yield f"line {number}: {_difference(found, due)}"
            return


def _difference(found: bytes | None, due: bytes | None) -> str:
    if found is None or due is None:
        here = "the report" if due is None else "the log"
        return f"only {here} has {_name(found or due or b'')}"
    names = _name(found), _name(due)
    if names[0] == names[1]:
        return f"{names[0]} differs in: {_differing(found, due)}"
    return f"the report has {names[0]}, and the log gives {names[1]}"


def _differing(found: bytes, due: bytes) -> str:
    """Return the names of the fields that differ."""
    old, new = (parse_canonical(line.removesuffix(b"\n")) for line in (found, due))
    return ", ".join(
        name for name in sorted({*old, *new}) if old.get(name) != new.get(name)
    )


def _name(line: bytes) -> str:
    """Return what a line is about, for people."""
    try:
        fields = parse_canonical(line.removesuffix(b"\n"))
    except InvalidInputError:
        return "an unreadable line"
    if "sequence" not in fields:
        return f"the line of {', '.join(sorted(fields))}"
    return f"record {fields['sequence']}"


def digest_of(lines: Iterable[bytes]) -> bytes:
    """Return the SHA-256 of the *lines* of a report without its signature."""
    return hashlib.sha256(b"".join(lines)).digest()


def _signed_text(lines: Iterable[bytes], origin: str) -> str:
    return f"{origin}\n{_KIND}\n{b64encode(digest_of(lines)).decode()}\n"


def _line(fields: Mapping[str, Any]) -> bytes:
    return rfc8785.dumps(dict(fields)) + b"\n"
