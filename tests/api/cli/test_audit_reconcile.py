"""``hotwallet audit reconcile``: what is compared with what, and when nothing is."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from backends.sql import SQLStore
from backends.sql.audit import AuditTables
from signer.audit.hash_chain import GENESIS, sealed
from tests.api.cli.audit_commands import run
from tests.support.audit import (
    exported,
)
from tests.support.cloudtrail import (
    ARN,
    OTHER_ARN,
    other_event,
    sign_event,
    trail_file,
)
from tests.support.keys import key_at, made_active
from tests.unit.signer.audit.signings import SUBJECT, at, intent, outcome


pytestmark = pytest.mark.usefixtures("files")


def test_reconciles_with_the_database(journal: AuditTables) -> None:
    """An intruder exits with 1 and is named; without one it exits with 0."""
    journal.append([intent(0), outcome(1, "a")])
    journal.seal()
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
    """Hold an export's records against two signatures, one of which is ours."""
    events = [sign_event("a", at(1)), sign_event("x", at(2), arn=OTHER_ARN)]
    trail = trail_file(Path("trail.json"), events)
    return run("reconcile", "--cloudtrail", str(trail), *arguments)


def _exported_signature() -> bytes:
    ours = sealed(0, GENESIS, [intent(0), outcome(1, "a")])
    return b"".join(exported(ours, [2]))


def test_reconciles_with_an_export() -> None:
    """An auditor needs no database for that, and is told what was passed over."""
    Path("export").write_bytes(_exported_signature())
    told = _reconciled("--export", "export")

    assert told.exit_code == 0
    assert told.stdout.splitlines() == [
        "1 matched, 0 refused by KMS, 0 of a time that the files may not cover",
        "passed over: 1 events of Sign by 1 other keys",
    ]


def test_an_export_that_is_not_all_there() -> None:
    """Empty, or cut off behind any byte, it is compared with nothing: exit 2."""
    whole = _exported_signature()
    for size in range(len(whole)):
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
def test_a_key_is_named_by_its_whole_arn(name: str) -> None:
    """What is no ARN would be a key that nobody knows, with nothing to compare."""
    Path("export").write_bytes(_exported_signature())
    done = _reconciled("--export", "export", "--key", name)

    assert done.exit_code == 2
    assert "is no key's whole ARN" in done.stderr


def test_a_key_that_one_side_does_not_know() -> None:
    """Nobody's key is not all well; an event without a record of ours is a finding."""
    Path("export").write_bytes(_exported_signature())
    unknown = _reconciled("--export", "export", "--key", ARN.replace("90ab", "90ac"))
    theirs = _reconciled("--export", "export", "--key", OTHER_ARN, "--json")

    assert unknown.exit_code == 2
    assert "all 2 events of Sign are of other keys" in unknown.stderr
    assert theirs.exit_code == 1
    assert json.loads(theirs.stdout)["compared"] is False
    assert "nothing was compared: no record of ours" in theirs.stderr


@pytest.mark.parametrize(
    ("events", "said"),
    [
        ([sign_event("x", at(1), arn=OTHER_ARN)], "all 1 events of Sign are of other"),
        ([other_event(at(1))], "there is no event of Sign in the files"),
    ],
)
def test_a_trail_with_nothing_of_ours(events: list[dict[str, Any]], said: str) -> None:
    """Another account's files, or a trail without read events, are told as such."""
    Path("export").write_bytes(_exported_signature())
    trail = trail_file(Path("trail.json"), events)
    done = run("reconcile", "--cloudtrail", str(trail), "--export", "export")

    assert done.exit_code == 2
    assert said in done.stderr


def test_an_empty_database(journal: AuditTables, sqlite_url: str) -> None:
    """Without any record nothing is compared; a key of the ring counts all the same."""
    trail = trail_file(Path("trail.json"), [sign_event("x", at(1))])
    empty = run("reconcile", "--cloudtrail", str(trail))
    store = SQLStore(sqlite_url)
    made_active(store, replace(key_at(SUBJECT.address, key_id=ARN), backend="aws-kms"))
    store.close()
    found = run("reconcile", "--cloudtrail", str(trail))

    assert journal.head()[0] == 0
    assert (empty.exit_code, found.exit_code) == (2, 1)
    assert found.stdout.startswith("INTRUDER: 1234abcd... ")


def test_tells_of_everything_that_it_found() -> None:
    """What is missing and what is explained is told beside the intruders."""
    edges = [other_event(at(-3600)), other_event(at(3600))]
    events = [*edges, sign_event("x", at(1)), sign_event("y", at(2))]
    trail = str(trail_file(Path("trail.json"), events))
    ours = [intent(0), outcome(900, "b", refund_id="rf_2")]
    Path("export").write_bytes(b"".join(exported(sealed(0, GENESIS, ours), [])))
    arguments = ("reconcile", "--cloudtrail", trail, "--export", "export")
    told, document = run(*arguments), json.loads(run(*arguments, "--json").stdout)

    assert told.exit_code == 1
    assert [line.partition(":")[0] for line in told.stdout.splitlines()] == [
        "INTRUDER",
        "not in CloudTrail",
        f"explained by crash of {ours[0].id}",
        "0 matched, 0 refused by KMS, 0 of a time that the files may not cover",
    ]
    assert document["missing"][0]["record"] == ours[1].id
    assert document["explained"][0]["reason"] == "crash"
