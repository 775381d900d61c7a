"""
What the ledger shows of the audit log, and finds records in it, the newest first.

There is no index of what records say, so a page looks at a bounded number of them.
Another program may have written a record: only one with a valid MAC is read.  A record
of a signature has what was signed in words, or what these words are made of.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from api.container import Container
from api.health.readiness import unsealed_seconds
from signer.audit.actions import SUCCESS, AuditAction
from signer.audit.checkpoints import Statement, Verify, find_newest
from signer.audit.hash_chain import (
    BATCH,
    GENESIS,
    BrokenChainError,
    ChainReader,
    parse_canonical,
)
from signer.config.networks import Network
from signer.errors import InvalidInputError
from signer.model.audit_record import Operation, Record, Sealed, made_at
from signer.model.transaction import Kind
from signer.policy.facts import Path
from signer.ports.audit_journal import Journal
from signer.row_macs import RowMACs


LOOKED_AT = 5_000
"""How many records one page looks at, at most."""

PAGE_SIZE = 50

_LATE = timedelta(minutes=10)
"""How much later than a younger record one may have been sealed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordFilter:
    """
    What a record must have; None allows everything.

    ``event`` and ``actor`` may be a part of the name.  ``until`` does not belong to the
    time.
    """

    since: datetime | None = None
    until: datetime | None = None
    actor: str | None = None
    event: str | None = None
    refund_id: str | None = None

    @property
    def texts(self) -> Sequence[str]:
        """What the body of each wanted record contains."""
        return plain_texts(self.event, self.actor, self.refund_id)

    def fits(self, fields: Mapping[str, Any]) -> bool:
        """Return whether a record with *fields* is wanted, apart from its time."""
        return (
            (self.event or "") in str(fields.get("event"))
            and (self.actor or "") in str(fields.get("actor"))
            and self.refund_id in {None, refund_of(fields)}
        )


def plain_texts(*given: str | None) -> Sequence[str]:
    """Return those of *given* that JSON contains as they are."""
    return [
        each for each in given if each and each.isascii() and not {'"', "\\"} & {*each}
    ]


@dataclass(frozen=True, slots=True)
class FoundRecord:
    """
    A record that was found.

    ``fields`` are None if its MAC is not valid: another program wrote it.
    """

    sequence: int
    id: str
    at: datetime | None
    fields: Mapping[str, Any] | None

    @property
    def text(self) -> str:
        """The fields as JSON, one per line."""
        return json.dumps(self.fields, indent=2, sort_keys=True, ensure_ascii=False)

    @property
    def refund_id(self) -> str | None:
        return refund_of(self.fields or {})


@dataclass(frozen=True, slots=True)
class FoundRecords:
    """
    A page of records.

    ``before`` is the sequence number before which the next page begins; None if all
    records were looked at.  ``until`` is the time of the oldest one looked at.
    """

    records: Sequence[FoundRecord]
    before: int | None = None
    until: datetime | None = None


def search_records(
    journal: Journal, macs: RowMACs, wanted: RecordFilter, before: int | None = None
) -> FoundRecords:
    """Return the newest *wanted* records whose sequence number is below *before*."""
    found: list[FoundRecord] = []
    last: Sealed | None = None
    start = _start(journal, wanted.until, before)
    for number, sealed in enumerate(newest_records(journal, LOOKED_AT, start), 1):
        at = made_at(sealed.record.id)
        if wanted.since is not None and at is not None and at < wanted.since - _LATE:
            return FoundRecords(found)
        last = sealed
        if _is_in_time(at, wanted):
            record = _read(sealed, macs, wanted, at)
            if record is not None:
                found.append(record)
        if len(found) == PAGE_SIZE or number == LOOKED_AT:
            break
    if last is None or last.sequence <= 1:
        return FoundRecords(found)
    return FoundRecords(found, last.sequence, made_at(last.record.id))


def newest_records(
    journal: Journal, limit: int, before: int | None = None
) -> Iterator[Sealed]:
    """Yield up to *limit* sealed records, the newest first."""
    high = journal.head()[0] if before is None else before - 1
    low = max(0, high - limit)
    while high > low:
        start = max(low, high - BATCH)
        yield from reversed(journal.sealed(start, high - start))
        high = start


def read_fields(record: Record, macs: RowMACs) -> Mapping[str, Any] | None:
    """Return the fields of *record*; None if its MAC is not valid."""
    if not macs.is_valid(record.mac, record):
        return None
    try:
        return parse_canonical(record.body.encode())
    except InvalidInputError:
        return None


def refund_of(fields: Mapping[str, Any]) -> str | None:
    details = fields.get("details")
    of_details = details.get("refund_id") if isinstance(details, dict) else None
    found = fields.get("refund_id") or of_details
    return found if isinstance(found, str) else None


def _is_in_time(at: datetime | None, wanted: RecordFilter) -> bool:
    if at is None:
        return True
    is_after = wanted.since is None or at >= wanted.since
    return is_after and (wanted.until is None or at < wanted.until)


def _read(
    sealed: Sealed, macs: RowMACs, wanted: RecordFilter, at: datetime | None
) -> FoundRecord | None:
    record = sealed.record
    if not all(text in record.body for text in wanted.texts):
        return None
    fields = read_fields(record, macs)
    if fields is not None and not wanted.fits(fields):
        return None
    return FoundRecord(sealed.sequence, record.id, at, fields)


def _start(journal: Journal, until: datetime | None, before: int | None) -> int | None:
    """Return *before*, or the sequence number where records from *until* on begin."""
    if until is None or before is not None:
        return before
    low, high = 0, journal.head()[0]
    while low < high:
        middle = (low + high + 1) // 2
        found = journal.sealed(middle - 1, 1)
        at = made_at(found[0].record.id) if found else None
        if at is None or at < until + _LATE:
            low = middle
        else:
            high = middle - 1
    return low + 1


VERIFIED = 1_000
"""How many of the newest records a page verifies."""


def verify_with(container: Container) -> Verify | None:
    """Return what verifies stored checkpoints; None if this process has no key."""
    signing = container.checkpoint_settings
    return None if signing is None else signing.verify


@dataclass(frozen=True, slots=True)
class AuditState:
    """
    How far the audit log is sealed and signed.

    ``is_signed`` is whether this process has the key that verifies checkpoints.
    ``agrees`` is whether the chain still has the hash that the newest one states; None
    without a checkpoint.
    """

    sealed: int
    unsealed: timedelta
    is_signed: bool
    statement: Statement | None
    note: str | None
    agrees: bool | None
    forged: int
    chain: "ChainState"

    @property
    def is_verified(self) -> bool:
        """Whether all that this page compares agrees, with a signed checkpoint."""
        has_signature = self.is_signed and self.agrees is True
        return has_signature and self.chain.broken_at is None and not self.forged


@dataclass(frozen=True, slots=True)
class ChainState:
    """
    What was found when the hashes and MACs of the newest records were computed again.

    ``broken_at`` is the first record that does not follow from the one before it.
    ``foreign`` counts the records without a valid MAC: another program wrote them.
    """

    records: int
    broken_at: int | None
    foreign: int


def verify_newest(journal: Journal, macs: RowMACs) -> ChainState:
    """Compute the hashes and MACs of the newest records again."""
    size = journal.head()[0]
    start = max(0, size - VERIFIED)
    first = journal.sealed(start - 1, 1) if start else ()
    reader = ChainReader(journal, start, first[0].hash if first else GENESIS)
    broken_at = None
    try:
        reader.advance()
    except BrokenChainError as e:
        broken_at = e.sequence
    newest = journal.sealed(start, VERIFIED)
    foreign = sum(not macs.is_valid(each.record.mac, each.record) for each in newest)
    return ChainState(len(newest), broken_at, foreign)


def read_audit(container: Container) -> AuditState:
    """Return the state; StoreError if the ledger does not answer."""
    store, verify = container.store, verify_with(container)
    newest = find_newest(store, verify)
    statement, agrees = newest.statement, None
    if statement is not None:
        found = store.sealed(statement.size - 1, 1)
        agrees = [each.hash for each in found] == [statement.hash]
    seconds = unsealed_seconds(store.oldest_unsealed(), container.ledger_clock)
    return AuditState(
        sealed=store.head()[0],
        unsealed=timedelta(seconds=seconds),
        is_signed=verify is not None,
        statement=statement,
        note=None if newest.checkpoint is None else newest.checkpoint.note,
        agrees=agrees,
        forged=len(newest.forged),
        chain=verify_newest(store, container.row_macs),
    )


TEST = str(Operation.SELF_TEST)
"""What takes the place of the path of a signature that only tests a key."""

PATHS = (*map(str, Path), TEST)

_MARK = f'"{AuditAction.DIGEST_SIGN}-'
_REQUESTED = AuditAction.DIGEST_SIGN.requested

_OF_WORKERS: Mapping[str, str] = {
    Operation.KEY_SWEEP: Path.SWEEP,
    Operation.NONCE_FILL: Path.NOOP,
    Operation.SELF_TEST: TEST,
    Operation.TRANSACTION_SIGNING: Path.REFUND,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SignatureFilter(RecordFilter):
    """What a signature must have; without a path, all of them but self-tests."""

    path: str | None = None
    network: str | None = None
    rule: str | None = None

    @property
    def texts(self) -> Sequence[str]:
        """What the body of each wanted record contains."""
        return [_MARK, *plain_texts(self.actor, self.network, self.rule)]

    def fits(self, fields: Mapping[str, Any]) -> bool:
        """Return whether a record with *fields* is wanted, apart from its time."""
        event = str(fields.get("event"))
        path, details = _path(fields), _details(fields)
        return (
            event.startswith(_MARK[1:])
            and event != _REQUESTED
            and (path != TEST if self.path is None else path == self.path)
            and (self.actor or "") in str(fields.get("actor"))
            and self.network in {None, fields.get("network")}
            and self.rule in {None, details.get("rule")}
        )


def show_signature(
    found: FoundRecord, networks: Mapping[str, Network]
) -> Mapping[str, Any]:
    """
    Return the signature that the record *found*, with a valid MAC, is about.

    ``problem`` is the code of the error after which there is none.  ``policy`` is the
    start of the policy's hash, and ``chain_id`` that of ``tx_hash``, if *networks* have
    its network.
    """
    fields = found.fields or {}
    details, outcome = _details(fields), str(fields.get("outcome"))
    network = networks.get(str(fields.get("network")))
    return {
        "sequence": found.sequence,
        "at": found.at,
        "actor": _text(fields, "actor") or "-",
        "path": _path(fields),
        "network": _text(fields, "network"),
        "summary": _describe(fields, details),
        "address": _text(fields, "address") or "-",
        **{
            name: _text(details, name)
            for name in ("tenant", "rule", "policy", "tx_hash")
        },
        "chain_id": None if network is None else network.chain_id,
        "refund_id": found.refund_id,
        "problem": None if outcome == SUCCESS else outcome,
    }


def _describe(fields: Mapping[str, Any], details: Mapping[str, Any]) -> str:
    """Return what was signed, in words."""
    summary = _text(details, "summary")
    if summary is not None:
        return summary
    path = _path(fields)
    if path == TEST:
        return "test the key with random bytes"
    if path == Path.NOOP:
        return f"use up nonce {details.get('nonce', '-')}, and pay nothing"
    amount, token = str(details.get("amount", "-")), details.get("token_symbol", "-")
    whole, point, fraction = amount.partition(".")
    if point:  # With two decimals, or as many as it needs.
        amount = f"{whole}.{fraction.rstrip('0').ljust(2, '0')}"
    recipient, data = details.get("recipient", "-"), _text(details, "calldata")
    if data is not None:
        return f"call {recipient} with {data} and {amount} {token}"
    return f"transfer {amount} {token} to {recipient}"


def _path(fields: Mapping[str, Any]) -> str:
    """Return the path to the signature; records of workers do not name it."""
    details = _details(fields)
    if details.get("kind") == str(Kind.NOOP):
        return Path.NOOP
    if "calldata" in details:
        return Path.CALL
    known = _OF_WORKERS.get(str(fields.get("operation")), "-")
    return _text(details, "path") or str(known)


def _details(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    details = fields.get("details")
    return details if isinstance(details, dict) else {}


def _text(fields: Mapping[str, Any], name: str) -> str | None:
    found = fields.get(name)
    return found if isinstance(found, str) else None
