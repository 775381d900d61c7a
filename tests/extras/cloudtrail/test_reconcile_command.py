"""``hotwallet audit reconcile``: output and exit statuses."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from backends.sql.audit import AuditTables
from signer.audit.hash_chain import GENESIS, sealed
from signer.model.audit_record import Record
from tests.api.cli.audit_commands import run
from tests.support.audit import exported
from tests.support.cloudtrail import ARN, OTHER_ARN, other_event, sign_event, trail_file
from tests.support.keys import key_at, made_active
from tests.support.ledgers import open_ledger, seal
from tests.support.signings import SUBJECT, at, intent, outcome


pytestmark = pytest.mark.usefixtures("files")


def test_reconciles_with_the_database(journal: AuditTables) -> None:
    """An intruder exits with 1 and is reported; without one the status is 0."""
    journal.append([intent(0), outcome(1, "a")])
    seal(journal)
    ours, theirs = sign_event("a", at(1)), sign_event("x", at(600))
    good = trail_file(Path("good.json"), [ours])
    bad = trail_file(Path("bad.json.gz"), [ours, theirs])
    quiet = run("reconcile", "--cloudtrail", str(good))
    loud = run("reconcile", "--cloudtrail", str(good), "--cloudtrail", str(bad))
    document = run("reconcile", "--cloudtrail", str(bad), "--key", ARN, "--json")

    assert (quiet.exit_code, loud.exit_code, document.exit_code) == (0, 1, 1)
    assert loud.stdout.startswith("INTRUDER: 1234abcd... signed at ")
    assert json.loads(document.stdout)["intruders"][0]["requestId"] == "x"
    assert ARN not in document.stdout + loud.stdout


def _reconciled(*arguments: str) -> Result:
    """Reconcile an export with two signatures, one of which is ours."""
    events = [sign_event("a", at(1)), sign_event("x", at(2), arn=OTHER_ARN)]
    trail = trail_file(Path("trail.json"), events)
    return run("reconcile", "--cloudtrail", str(trail), *arguments)


def _exported_signature() -> bytes:
    ours = sealed(0, GENESIS, [intent(0), outcome(1, "a")])
    return b"".join(exported(ours, [2]))


def test_reconciles_with_an_export() -> None:
    """An auditor needs no database, and the output counts skipped events."""
    Path("export").write_bytes(_exported_signature())
    text = _reconciled("--export", "export")

    assert text.exit_code == 0
    assert text.stdout.splitlines() == [
        "1 matched, 0 refused by KMS, 0 outside the time that the files cover",
        "skipped: 1 Sign events of 1 other keys",
    ]


def test_an_incomplete_export() -> None:
    """An export that is empty or cut off exits with 2."""
    whole = _exported_signature()
    for size in (*range(0, len(whole), 29), len(whole) - 1):
        Path("export").write_bytes(whole[:size])
        assert _reconciled("--export", "export").exit_code == 2


NO_KEYS = (
    "1234abcd-12ab-34cd-56ef-1234567890ab",
    "alias/hotwallet",
    ARN[:-1],
    ARN + "0",
    ARN.upper(),
)


@pytest.mark.parametrize("name", NO_KEYS)
def test_requires_full_key_arns(name: str) -> None:
    """``--key`` accepts only full ARNs; ids and aliases could not be compared."""
    Path("export").write_bytes(_exported_signature())
    done = _reconciled("--export", "export", "--key", name)

    assert done.exit_code == 2
    assert "is not a full key ARN" in done.stderr


def test_a_key_that_only_one_side_has() -> None:
    """A key without events exits with 2; an event without a record is a finding."""
    Path("export").write_bytes(_exported_signature())
    unknown = _reconciled("--export", "export", "--key", ARN.replace("90ab", "90ac"))
    theirs = _reconciled("--export", "export", "--key", OTHER_ARN, "--json")

    assert unknown.exit_code == 2
    assert "all 2 Sign events are of other keys" in unknown.stderr
    assert theirs.exit_code == 1
    assert json.loads(theirs.stdout)["compared"] is False
    assert "nothing was compared: the audit has no record" in theirs.stderr


@pytest.mark.parametrize(
    ("events", "message"),
    [
        ([sign_event("x", at(1), arn=OTHER_ARN)], "all 1 Sign events are of other"),
        ([other_event(at(1))], "the files contain no Sign event"),
    ],
)
def test_a_trail_without_our_events(events: list[dict[str, Any]], message: str) -> None:
    """The message suggests the wrong account, or a trail without read events."""
    Path("export").write_bytes(_exported_signature())
    trail = trail_file(Path("trail.json"), events)
    done = run("reconcile", "--cloudtrail", str(trail), "--export", "export")

    assert done.exit_code == 2
    assert message in done.stderr


def test_an_empty_database(journal: AuditTables, sqlite_url: str) -> None:
    """Without records nothing is compared, except keys of the ring."""
    trail = trail_file(Path("trail.json"), [sign_event("x", at(1))])
    empty = run("reconcile", "--cloudtrail", str(trail))
    store = open_ledger(sqlite_url)
    made_active(store, replace(key_at(SUBJECT.address, key_id=ARN), backend="aws-kms"))
    store.close()
    found = run("reconcile", "--cloudtrail", str(trail))

    assert journal.head()[0] == 0
    assert (empty.exit_code, found.exit_code) == (2, 1)
    assert found.stdout.startswith("INTRUDER: 1234abcd... ")


def test_reports_missing_and_explained_signatures() -> None:
    edges = [other_event(at(-3600)), other_event(at(3600))]
    events = [*edges, sign_event("x", at(1)), sign_event("y", at(2))]
    trail = str(trail_file(Path("trail.json"), events))
    ours = [intent(0), outcome(900, "b", refund_id="rf_2")]
    Path("export").write_bytes(b"".join(exported(sealed(0, GENESIS, ours), [])))
    arguments = ("reconcile", "--cloudtrail", trail, "--export", "export")
    text, document = run(*arguments), json.loads(run(*arguments, "--json").stdout)

    assert text.exit_code == 1
    assert [line.partition(":")[0] for line in text.stdout.splitlines()] == [
        "INTRUDER",
        "not in CloudTrail",
        f"explained by crash of {ours[0].id}",
        "0 matched, 0 refused by KMS, 0 outside the time that the files cover",
    ]
    assert document["missing"][0]["record"] == ours[1].id
    assert document["explained"][0]["reason"] == "crash"


def test_a_malformed_record() -> None:
    """A record that another program wrote is a finding, and no text of it is raw."""
    body = json.dumps(outcome(1, "a").fields)
    ours = sealed(0, GENESIS, [outcome(1, "a"), Record("au\x1b[2J\nok", body)])
    Path("export").write_bytes(b"".join(exported(ours, [2])))
    text, document = (
        _reconciled("--export", "export"),
        _reconciled("--export", "export", "--json"),
    )

    assert (text.exit_code, document.exit_code) == (1, 1)
    assert text.stdout.startswith("MALFORMED: au\\x1b[2J\\nok: its id or body is not")
    assert json.loads(document.stdout)["malformed"] == [
        {
            "record": "au\x1b[2J\nok",
            "problem": "its id or body is not in canonical form",
        }
    ]
