"""Start-up records, changes of the configuration, and the report for an auditor."""

import io
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from api.logs import audit_logger
from backends.sql.audit import AuditTables
from signer.audit.configurations import Start, record_start, report_configurations
from signer.audit.log import AuditLog
from signer.config.digest import Configuration
from signer.model.audit_record import Operation, Purpose, Record
from tests.support.audit import START
from tests.support.ledgers import seal
from tests.support.refunds import FakeClock
from tests.support.ring import SILENCE
from tests.support.signings import DIGEST, SUBJECT


OLD = Configuration.of(networks={"local": {"max_amount": "1000"}})
NEW = Configuration.of(networks={"local": {"max_amount": "900000"}})
SECRETIVE = Configuration.of(
    tenants={
        "pay-token": {"PIN": "999999999999", "eu-west-1": {"secret": "5000"}},
        "password": {"max_amount": "7"},
    }
)
RAISED = Configuration.of(
    tenants={
        "pay-token": {"PIN": "999999999998", "eu-west-1": {"secret": "6000"}},
        "password": {"max_amount": "8"},
    }
)
WORKER = Start("worker", "1.2.3", "production")


class _Host:
    """A process that starts and signs, with a clock that moves on."""

    def __init__(self, journal: AuditTables) -> None:
        self.journal = journal
        self.clock = FakeClock()
        self.clock.now = START

    def audit(self, configuration: Configuration | None) -> AuditLog:
        self.clock.now += timedelta(seconds=1)
        short = configuration.short if configuration else None
        return AuditLog(SILENCE, self.clock, journal=self.journal, configuration=short)

    def start(self, configuration: Configuration, start: Start = WORKER) -> None:
        record_start(self.audit(configuration), self.journal, start, configuration)

    def sign(
        self,
        configuration: Configuration | None,
        operation: Operation = Operation.TRANSACTION_SIGNING,
    ) -> None:
        audit = self.audit(configuration)
        audit.write(audit.intent(Purpose(operation), SUBJECT, DIGEST))

    def records(self) -> Sequence[Record]:
        seal(self.journal)
        return [each.record for each in self.journal.sealed(0, 100)]

    def events(self) -> list[tuple[str, Any]]:
        fields = [record.fields for record in self.records()]
        return [(each["event"], each["details"]) for each in fields]


@pytest.fixture
def host(journal: AuditTables) -> _Host:
    """Return a host with an empty audit log."""
    return _Host(journal)


def test_each_start_is_recorded(host: _Host) -> None:
    """The record has everything that was in force, and who ran what where (A18)."""
    host.start(OLD)
    host.start(OLD)

    details = {
        "process": "worker",
        "version": "1.2.3",
        "environment": "production",
        "hash": OLD.hash,
        "document": OLD.document,
    }
    assert host.events() == [("configuration-loaded", details)] * 2
    assert host.records()[0].fields["actor"] == "worker"


def test_a_change_is_an_event(host: _Host) -> None:
    """It names each field with both values, once per change (A18)."""
    for configuration in (OLD, NEW, NEW, OLD):
        host.start(configuration)
    changes = [
        details for event, details in host.events() if event == "configuration-changed"
    ]

    assert changes == [
        {
            "process": "worker",
            "hash": after.hash,
            "previous_hash": before.hash,
            "changes": {
                "networks.local.max_amount": {"before": values[0], "after": values[1]}
            },
        }
        for before, after, values in (
            (OLD, NEW, ("1000", "900000")),
            (NEW, OLD, ("900000", "1000")),
        )
    ]


def test_limits_that_look_like_secrets_are_recorded_exactly(
    journal: AuditTables,
) -> None:
    """The record has names and values that the line in the log must not have."""
    stream = io.StringIO()
    audit = AuditLog(audit_logger(stream), journal=journal)
    for configuration in (SECRETIVE, RAISED):
        record_start(audit, journal, WORKER, configuration)
    seal(journal)
    records = [each.record for each in journal.sealed(0, 100)]
    first, changed, second = (record.fields["details"] for record in records)

    assert first["document"] == SECRETIVE.document
    assert second["document"] == RAISED.document
    assert changed["changes"] == {
        "tenants.password.max_amount": {"before": "7", "after": "8"},
        "tenants.pay-token.PIN": {"before": "999999999999", "after": "999999999998"},
        "tenants.pay-token.eu-west-1.secret": {"before": "5000", "after": "6000"},
    }
    assert [use.hash for use in report_configurations(records).uses] == [
        SECRETIVE.hash,
        RAISED.hash,
    ]
    assert "99999999999" not in stream.getvalue()
    assert '"pay-token":"[redacted]"' in stream.getvalue()


def test_a_redacted_document_is_no_start(host: _Host) -> None:
    """A database role could hide a limit in that way."""
    details = {"process": "worker", "hash": NEW.hash, "document": {"x": "[redacted]"}}
    host.journal.append([_invented(details)])
    host.sign(NEW)

    assert not report_configurations(host.records()).is_good


def test_kinds_of_processes_are_compared_with_themselves(host: _Host) -> None:
    """The API and the worker may have different limits without a change."""
    for _ in range(2):
        host.start(OLD)
        host.start(NEW, Start("api", "1.2.3", "production"))

    assert [event for event, _ in host.events()] == ["configuration-loaded"] * 4


def _invented(details: object) -> Record:
    fields = {"event": "configuration-loaded", "details": details}
    return Record.of(fields, START + timedelta(days=1))


_TOO_LARGE = """{"event":"configuration-loaded","details":{"process":"x","hash":"5",
"document":{"a":9007199254740993}}}"""


@pytest.mark.parametrize(
    "body",
    [
        _invented({"process": "worker", "hash": NEW.hash, "document": {}}).body,
        _invented({"process": "worker", "hash": 7, "document": []}).body,
        _invented({"process": "worker"}).body,
        _invented(['"process":"worker"']).body,
        '{"event":"configuration-loaded","details":{"process":"worker"},',
        '{"event":"configuration-loaded","process":"worker","x":' + "[" * 200_000,
    ],
)
def test_an_invented_start_is_ignored(host: _Host, body: str) -> None:
    """A database role can insert any record, and cannot prevent the next start."""
    host.start(OLD)
    invented = _invented({}).id
    host.journal.append([Record(invented, body)])
    host.start(NEW)

    newest = [record for record in host.records() if record.id != invented][-1]
    assert newest.fields["details"]["hash"] == NEW.hash


@pytest.mark.parametrize(
    "body",
    [
        "[]",
        "not json",
        '{"event":[]}',
        '{"event":"digest-sign-requested","operation":[]}',
        _invented({"process": "x", "hash": 5, "document": {"a": "[redacted]"}}).body,
        _TOO_LARGE,
    ],
)
def test_the_report_ignores_a_hostile_record(host: _Host, body: str) -> None:
    """Also one that no declaration names yet."""
    host.start(OLD)
    hostile = Record(_invented({}).id, body)
    found = report_configurations([*host.records(), hostile])

    assert [(use.hash, use.is_described) for use in found.uses] == [(OLD.hash, True)]


def test_the_report_leaves_out_forged_records(host: _Host) -> None:
    """Declared, or in another form than ours, which no declaration names yet."""
    host.sign(NEW)
    details = {"process": "worker", "hash": NEW.hash, "document": NEW.document}
    forged = _invented(details)
    respelled = Record(forged.id, forged.body.replace(":", ": ", 1))
    declared = [forged, host.audit(None).forged([forged.id])]

    assert report_configurations([*host.records(), forged]).is_good
    for found in (declared, [respelled]):
        assert not report_configurations([*host.records(), *found]).is_good


def test_signatures_name_the_configuration(host: _Host) -> None:
    """Intent and outcome have the first 16 digits of the hash; others none (A18)."""
    audit = host.audit(OLD)
    purpose = Purpose(Operation.TRANSACTION_SIGNING)
    intent = audit.intent(purpose, SUBJECT, DIGEST)
    outcome = audit.outcome(
        purpose, SUBJECT, digest=DIGEST, outcome="success", seconds=1
    )
    unnamed = host.audit(None).intent(purpose, SUBJECT, DIGEST)

    assert intent.fields["configuration"] == OLD.hash[:16]
    assert outcome.fields["configuration"] == OLD.hash[:16]
    assert "configuration" not in unnamed.fields


def test_the_report_counts_starts_and_signatures(host: _Host) -> None:
    host.start(OLD)
    host.sign(OLD)
    host.start(NEW)
    host.sign(NEW)
    host.sign(NEW)
    host.sign(None)
    found = report_configurations(host.records())

    assert found.is_good
    assert found.unnamed == 1
    assert [(use.hash, use.signatures, use.starts) for use in found.uses] == [
        (OLD.hash, 1, {"worker 1.2.3": 1}),
        (NEW.hash, 2, {"worker 1.2.3": 1}),
    ]
    assert found.uses[0].first_at < found.uses[0].last_at < found.uses[1].first_at


def test_a_signature_without_a_start_is_found(host: _Host) -> None:
    """It was made by a process that did not record its start (A18)."""
    host.start(OLD)
    host.sign(NEW)
    forged = {"process": "worker", "hash": NEW.hash, "document": OLD.document}
    host.journal.append([_invented(forged)])
    found = report_configurations(host.records())

    (undescribed,) = [use for use in found.uses if not use.is_described]
    assert not found.is_good
    assert (undescribed.hash, undescribed.signatures) == (NEW.short, 1)


def test_a_self_test_needs_no_start(host: _Host) -> None:
    """The guard and rotations test keys before a process has started."""
    for operation in (Operation.SELF_TEST, Operation.KEY_ROTATION):
        host.sign(NEW, operation)

    assert report_configurations(host.records()).uses == []
