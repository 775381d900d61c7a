"""
Records under which configuration each process runs, and reports it to an auditor.

Each start has a record of the whole configuration, and each signature has the start of
its hash.  The stored records decide what is a change: they cannot be changed, so no
process can hide an earlier start.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from signer.audit.actions import SIGN_FINISHED, SIGN_REQUESTED, ConfigurationEvent
from signer.audit.hash_chain import genuine, is_canonical, read_fields
from signer.audit.log import AuditLog
from signer.config.digest import SHORT_DIGITS, Configuration, describes
from signer.model.audit_record import Actor, Operation, Record
from signer.ports.audit_journal import Journal


_PAYING = frozenset(
    {
        Operation.TRANSACTION_SIGNING,
        Operation.MESSAGE_SIGNING,
        Operation.KEY_SWEEP,
    }
)
"""Operations whose signatures leave the process; a self-test authorises nothing."""

_SIGNING = SIGN_REQUESTED | SIGN_FINISHED


_PROCESSES = ("worker", "api", "admin", "refunds", "sign")


@dataclass(frozen=True, slots=True)
class Start:
    """A process that starts, or applies other rules while it runs."""

    process: str
    version: str
    environment: str


def record_start(
    audit: AuditLog, journal: Journal, start: Start, configuration: Configuration
) -> None:
    """
    Record that a process applies *configuration* from now on, and what has changed.

    The change is since the last start of the same kind of process, on any host.  Two
    processes that start at once may both record it.

    Raises:
        StoreError: The journal cannot be read or written.
    """
    actor = Actor(start.process)
    before = _details(journal.last_configuration(start.process))
    records = []
    facts = {"process": start.process, "hash": configuration.hash}
    if before is not None and before["hash"] != configuration.hash:
        changed = audit.configuration(
            ConfigurationEvent.CHANGED,
            actor,
            evidence={"changes": configuration.changes_from(before["document"])},
            previous_hash=before["hash"],
            **facts,
        )
        records.append(changed)
    loaded = audit.configuration(
        ConfigurationEvent.LOADED,
        actor,
        evidence={"document": configuration.document},
        version=start.version,
        environment=start.environment,
        **facts,
    )
    audit.write(*records, loaded)


def last_document(journal: Journal) -> Mapping[str, Any] | None:
    """
    Return the document with which the last process started, workers first, if any.

    Raises:
        StoreError: The journal cannot be read.
    """
    for process in _PROCESSES:
        details = _details(journal.last_configuration(process))
        if details is not None:
            document: Mapping[str, Any] = details["document"]
            return document
    return None


@dataclass(slots=True)
class ConfigurationUse:
    """
    A configuration that an audit log names.

    ``hash`` is whole if a start-up record describes the configuration, and otherwise
    its start.  ``starts`` counts those records by process and version, ``signatures``
    the signing records.  ``first_at`` and ``last_at`` are times in ISO 8601.
    """

    hash: str
    first_record: str
    first_at: str
    last_at: str
    is_described: bool = False
    starts: Counter[str] = field(default_factory=Counter)
    signatures: int = 0


@dataclass(frozen=True, slots=True)
class ConfigurationReport:
    """
    The configurations that an audit log names, in the order of their first record.

    ``unnamed`` counts signing records that name none: those of the library, and old
    ones.
    """

    uses: Sequence[ConfigurationUse]
    unnamed: int

    @property
    def is_good(self) -> bool:
        """Whether a start-up record describes each configuration."""
        return all(use.is_described for use in self.uses)


def report_configurations(records: Iterable[Record]) -> ConfigurationReport:
    """Return which configurations all audit *records* describe and were made under."""
    uses: dict[str, ConfigurationUse] = {}
    unnamed = 0
    for record in genuine(records, {ConfigurationEvent.LOADED, *_SIGNING}):
        fields = record.fields
        if fields["event"] == ConfigurationEvent.LOADED:
            if details := _details(record):
                use = _find(uses, details["hash"][:SHORT_DIGITS], record)
                use.hash, use.is_described = details["hash"], True
                use.starts[f"{details['process']} {details.get('version')}"] += 1
        elif str(fields.get("operation")) in _PAYING:
            if (short := fields.get("configuration")) is None:
                unnamed += 1
            else:
                _find(uses, str(short), record).signatures += 1
    return ConfigurationReport(list(uses.values()), unnamed)


def _find(
    uses: dict[str, ConfigurationUse], short: str, record: Record
) -> ConfigurationUse:
    at = str(record.fields.get("timestamp"))
    use = uses.setdefault(short, ConfigurationUse(short, record.id, at, at))
    # Records of several processes are not sealed in the order of their times.
    use.first_at, use.last_at = min(use.first_at, at), max(use.last_at, at)
    return use


def _details(record: Record | None) -> Mapping[str, Any] | None:
    """
    Return the details of a start-up record, if its document has its hash.

    A database role can insert a record of any form; such a record is ignored.
    """
    if record is None or not is_canonical(record):
        return None
    match read_fields(record):
        case {
            "details": {
                "process": _,
                "document": dict(document),
                "hash": str(hash_),
            } as details
        } if describes(document, hash_):
            return dict(details)
    return None
