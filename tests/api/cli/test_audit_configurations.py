"""``hotwallet audit configurations``: output and exit statuses."""

import json
from pathlib import Path

import pytest

from backends.sql.audit import AuditTables
from signer.audit.configurations import Start, record_start
from signer.audit.export import export
from signer.audit.log import AuditLog
from signer.config.digest import Configuration
from signer.ports.clock import utc_now
from tests.api.cli.audit_commands import run
from tests.support.audit import overruled
from tests.support.ledgers import seal
from tests.support.ring import SILENCE
from tests.support.signings import DIGEST, SUBJECT, purpose_of


pytestmark = pytest.mark.usefixtures("files")

KNOWN = Configuration.of(networks={"local": {"max_amount": "1000"}})
OTHER = Configuration.of(networks={"local": {"max_amount": "2"}})


def _sign(journal: AuditTables, configuration: Configuration | None) -> None:
    audit = AuditLog(
        SILENCE,
        journal=journal,
        configuration=configuration.short if configuration else None,
    )
    audit.write(audit.intent(purpose_of("rf_1"), SUBJECT, DIGEST))


def _start(journal: AuditTables) -> None:
    audit = AuditLog(SILENCE, utc_now, journal=journal)
    record_start(audit, journal, Start("worker", "1.2.3", "test"), KNOWN)


def test_lists_configurations(journal: AuditTables) -> None:
    """From the database and from an export alike."""
    _start(journal)
    _sign(journal, KNOWN)
    _sign(journal, None)
    seal(journal)
    Path("whole").write_bytes(b"".join(export(journal, "hotwallet/tests")))
    listed = run("configurations")
    exported = run("configurations", "--export", "whole", "--json")
    document = json.loads(exported.stdout)

    first, second = listed.stdout.splitlines()
    assert listed.exit_code == exported.exit_code == 0
    assert first.startswith(f"{KNOWN.hash}: ")
    assert first.endswith("started 1 x worker 1.2.3, 1 signing records")
    assert second == "1 signing records name no configuration"
    assert document["ok"] is True
    assert document["unnamed"] == 1
    assert document["configurations"][0]["starts"] == {"worker 1.2.3": 1}


def test_a_signature_that_no_start_describes(journal: AuditTables) -> None:
    """It is the first line, and the command exits with 1."""
    _start(journal)
    _sign(journal, OTHER)
    seal(journal)
    found = run("configurations")

    assert found.exit_code == 1
    assert found.stdout.splitlines()[0].startswith(
        f"UNDESCRIBED: {OTHER.short}: 1 signing records from au_"
    )


def test_forged_records_do_not_count(journal: AuditTables, sqlite_url: str) -> None:
    """A forged start describes nothing, and no body ends the command."""
    _sign(journal, KNOWN)
    details = {"process": "worker", "hash": KNOWN.hash, "document": KNOWN.document}
    start = json.dumps({"event": "configuration-loaded", "details": details})
    overruled(
        sqlite_url,
        *(
            f"INSERT INTO audit_records (id, body) VALUES ('au_{number}', '{body}')"
            for number, body in enumerate(("[]", "not json", '{"event": []}', start))
        ),
    )
    seal(journal)
    listed = run("configurations")

    assert listed.exit_code == 1
    assert listed.stdout.startswith(f"UNDESCRIBED: {KNOWN.short}: ")
