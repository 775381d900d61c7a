"""``hotwallet audit``: output and exit statuses."""

import json
import os
import resource
import signal
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backends.sql.audit import AuditTables
from signer.audit.checkpoints import CheckpointKey, Verifier
from signer.audit.configurations import Start, record_start
from signer.audit.export import (
    End,
    checkpoint_line,
    end_line,
    export,
)
from signer.audit.hash_chain import GENESIS, sealed
from signer.audit.log import AuditLog
from signer.config.digest import Configuration
from signer.errors import ConfigurationError
from signer.model.audit_record import Record
from signer.ports.clock import utc_now
from tests.api.cli.audit_commands import LINKS, MORE, run, verified
from tests.support.audit import (
    KEY,
    ORIGIN,
    chain,
    checkpoint,
    exported,
    overruled,
    record,
    records,
)
from tests.support.ledgers import DRAFTS, open_ledger, seal
from tests.support.ring import SILENCE
from tests.support.signings import DIGEST, SUBJECT, purpose_of


pytestmark = pytest.mark.usefixtures("files")


def test_a_good_export() -> None:
    """0, and how far it is signed; ``tests/unit/signer/audit`` has every finding."""
    done = verified()

    assert (done.exit_code, done.stdout.splitlines()[0]) == (
        0,
        f"ok: 4 records of {ORIGIN}",
    )
    assert "not signed yet: the last 2" in done.stdout


def test_names_the_bad_record() -> None:
    """A bad export exits with 1, and the output names record and line."""
    lines = exported(LINKS, [2])
    Path("export").write_bytes(b"".join([*lines[:4], *lines[5:]]))
    text, document = verified(), verified("--json")

    assert (text.exit_code, document.exit_code) == (1, 1)
    assert text.stdout.startswith("BAD: record 3 (line 5): it is missing")
    assert json.loads(document.stdout)["finding"]["record"] == 3


def test_what_is_forged_or_late_is_listed() -> None:
    """A declared record, a checkpoint and a late signature leave the export good."""
    forged = Record("au_0\x1b[2J", "{}")
    links = sealed(0, GENESIS, [record(1), forged, DRAFTS.forged([forged.id])])
    *lines, _ = exported(links, [3])
    end = end_line(End(3, links[-1].hash, 2))
    Path("export").write_bytes(b"".join([*lines, checkpoint_line("x"), end]))
    text, document = verified(), verified("--json")
    late = chain(900, seconds=1)
    Path("export").write_bytes(b"".join(exported(late, [60, 300, 900])))
    late_text, late_document = verified(), verified("--json")

    assert (text.exit_code, document.exit_code) == (0, 0)
    assert "forged: 1 records, the first is 2, which record 3 declares" in text.stdout
    assert json.loads(document.stdout)["forged"] == [
        {"record": 2, "declaredBy": 3, "canonical": False}
    ]
    assert "ignored: 1 checkpoints, the first is on line 6" in text.stdout
    assert json.loads(document.stdout)["forgedCheckpoints"] == {
        "count": 1,
        "line": 6,
        "record": 3,
        "message": "not a checkpoint of an audit chain",
    }
    assert "signed late: 2 times; the longest delay was 540 s" in late_text.stdout
    assert "for 600 records from record 301" in late_text.stdout
    assert json.loads(late_document.stdout)["signedLate"] == [
        {"record": 61, "records": 240, "seconds": 180},
        {"record": 301, "records": 600, "seconds": 540},
    ]


def test_rejects_invalid_keys_and_missing_exports() -> None:
    assert verified("--public-key", "export").exit_code == 2
    assert run("verify", "gone", "--public-key", "key.pub.pem").exit_code == 2


def test_a_new_export_verifies(
    journal: AuditTables, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUDIT_SIGNING_KEY_FILE", "key")
    journal.append(records(3))
    made = run("checkpoint", "--new")
    as_json = run("checkpoint")
    piped = run("export")
    written = run("export", "--out", "export")
    verdict = verified("--json")

    codes = [each.exit_code for each in (made, as_json, piped, written, verdict)]
    assert codes == [0] * 5
    assert made.stdout == as_json.stdout
    assert Verifier(KEY.public_pem()).verify(made.stdout).size == 3
    assert piped.stdout_bytes == Path("export").read_bytes()
    assert json.loads(verdict.stdout)["signed"] == 3
    assert list(Path().glob(".export*")) == []


def test_a_long_export_reports_progress() -> None:
    links = chain(100_000)
    Path("export").write_bytes(b"".join(exported(links, [100_000])))
    done = verified("--json")

    assert (done.exit_code, done.stderr) == (0, "100000 lines\n")
    assert json.loads(done.stdout)["records"] == 100_000


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        (0, "record 1 (line 1): the file is empty"),
        (-1, "record 5 (line 7): the line is incomplete"),
        (-40, "record 5 (line 7): the line is incomplete"),
    ],
)
def test_an_export_that_is_cut_off(cut: int, message: str) -> None:
    """A4: a file that is cut off exits with 1; the output has the place and advice."""
    whole = Path("export").read_bytes()
    Path("export").write_bytes(whole[:cut])
    done = verified()

    assert done.exit_code == 1
    assert done.stdout.startswith(f"BAD: {message}")
    assert "export it again" in done.stdout


@pytest.fixture
def limit() -> Iterator[Callable[[int], None]]:
    """Limit the size of files of this process, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [0, 700])
def test_a_full_disk(
    journal: AuditTables, limit: Callable[[int], None], size: int
) -> None:
    """A4: an export that does not fit exits with 2 and keeps the previous file."""
    journal.append(records(50))
    seal(journal)
    before = Path("export").read_bytes()
    limit(size)
    over, fresh = run("export", "--out", "export"), run("export", "--out", "fresh")

    assert (over.exit_code, fresh.exit_code) == (2, 2)
    assert Path("export").read_bytes() == before
    assert not [*Path().glob("fresh"), *Path().glob(".*")]


def test_a_key_that_does_not_fit_leaves_no_file(limit: Callable[[int], None]) -> None:
    limit(10)
    made = run("key", "--out", "new")

    assert made.exit_code == 2
    assert not [*Path().glob("new*"), *Path().glob(".*")]


def _killed_export(size: int) -> int:
    """Export in a child that is killed at the first byte beyond *size*."""
    pid = os.fork()
    if pid == 0:
        # The signal of the kernel, which Python ignores by default.
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        try:
            run("export", "--out", "export")
        finally:
            os._exit(0)
    return os.WTERMSIG(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("size", [0, 1, 83, 8191, 8193])
def test_killed_at_any_byte(journal: AuditTables, size: int) -> None:
    """A4: an export that is killed leaves the previous file, or a complete one."""
    journal.append(records(50))
    seal(journal)
    journal._database.close()
    before = Path("export").read_bytes()

    assert _killed_export(size) == signal.SIGXFSZ
    assert Path("export").read_bytes() == before
    assert run("export", "--out", "export").exit_code == 0
    assert b'"records":50}}\n' in Path("export").read_bytes()


# ``hotwallet audit checkpoint`` and ``key``, and checkpoints kept elsewhere.

NOTE = checkpoint(MORE, 5).note

LOGGED = json.dumps({"event": "audit-checkpoint", "size": 5, "note": NOTE})

# ``tests/unit/signer/audit/test_checkpoints.py`` has every form.
KEPT = {
    "a note with lines as on Windows": "\ufeff" + NOTE.replace("\n", "\r\n"),
    "a log of containers": f"api-1  | {LOGGED}\n",
}


@pytest.mark.parametrize("form", KEPT)
def test_verifies_with_kept_checkpoints(form: str) -> None:
    Path("kept").write_bytes(KEPT[form].encode())
    done = verified("--checkpoint", "kept")

    assert done.exit_code == 1
    assert "a checkpoint kept elsewhere covers 5 records" in done.stdout


NOT_KEPT = {
    "noise": "noise",
    "a line cut off": LOGGED[:-9],
    "by another key": checkpoint(LINKS, 2, key=CheckpointKey.generate()).note,
}


@pytest.mark.parametrize("form", NOT_KEPT)
def test_rejects_a_file_without_checkpoints(form: str) -> None:
    """A file without checkpoints exits with 2, and the message names the format."""
    Path("kept").write_text(NOT_KEPT[form], encoding="utf-8")
    done = verified("--checkpoint", "kept")

    assert done.exit_code == 2
    assert "kept: " in done.stderr
    assert "expected notes as `hotwallet audit checkpoint` prints" in done.stderr


@pytest.mark.parametrize(
    ("count", "key", "messages"),
    [
        (0, "key", ["--new` signs one", "there is no audit record yet"]),
        (1, None, ["set AUDIT_SIGNING_KEY_FILE"] * 2),
    ],
)
def test_no_checkpoint_yet(
    journal: AuditTables,
    monkeypatch: pytest.MonkeyPatch,
    count: int,
    key: str | None,
    messages: list[str],
) -> None:
    """Without a checkpoint the command exits with 2 with advice."""
    if key is None:
        monkeypatch.setenv("APP_ENV", "production")
    else:
        monkeypatch.setenv("AUDIT_SIGNING_KEY_FILE", key)
    journal.append(records(count))
    done = [run("checkpoint"), run("checkpoint", "--new")]

    assert [each.exit_code for each in done] == [2, 2]
    assert all(text in each.stderr for text, each in zip(messages, done, strict=True))


def test_the_command_uses_the_key_of_the_development_service(
    journal: AuditTables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOTWALLET_HOME", str(tmp_path))
    (tmp_path / "audit.pem").write_bytes(KEY.private_pem())
    (tmp_path / "audit.pem").chmod(0o600)
    journal.append(records(1))
    made = run("checkpoint", "--new")

    Verifier(KEY.public_pem()).verify(made.stdout)
    assert made.exit_code == 0


def test_a_checkpoint_as_json(
    journal: AuditTables, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUDIT_SIGNING_KEY_FILE", "key")
    journal.append(records(2))
    note = run("checkpoint", "--new").stdout
    document = json.loads(run("checkpoint", "--json").stdout)

    assert document["note"] == note
    assert (document["origin"], document["records"]) == ("hotwallet/tests", 2)
    assert document["head"] == journal.head()[1].hex()
    assert document["signedAt"]


def test_a_key_as_json() -> None:
    documents = [json.loads(run("key", "--out", "new", "--json").stdout)]
    Path("new.pub.pem").unlink()
    documents.append(json.loads(run("key", "--out", "new", "--json").stdout))

    files = {"privateKeyFile": "new", "publicKeyFile": "new.pub.pem"}
    assert documents == [files | {"created": True}, files | {"created": False}]


def test_the_command_counts_the_alert_of_an_overdue_checkpoint(
    journal: AuditTables, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUDIT_SIGNING_KEY_FILE", "key")
    journal.append(records(1))
    made = run("checkpoint", "--new")
    store = open_ledger(sqlite_url)
    counts = store.alert_counts()
    store.close()

    assert made.exit_code == 0
    assert counts == {"audit-signing-late": 1}


def test_a_bad_signing_key_is_a_refusal(
    journal: AuditTables, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUDIT_SIGNING_KEY_FILE", "key.pub.pem")
    journal.append(records(1))

    assert isinstance(run("checkpoint", "--new").exception, ConfigurationError)


def test_names_the_file_that_cannot_be_created() -> None:
    """A missing directory exits with 2, and the message has the path as given."""
    done = run("key", "--out", "nowhere/audit.pem")

    assert done.exit_code == 2
    assert "Error: nowhere/audit.pem: No such file or directory" in done.stderr


def test_creates_a_key() -> None:
    """Only the owner may read a new private key, and no file is overwritten."""
    first, second = run("key", "--out", "new"), run("key", "--out", "new")
    mode = stat.S_IMODE(Path("new").stat().st_mode)

    assert (first.exit_code, second.exit_code, mode) == (0, 2, 0o600)
    assert "new and new.pub.pem exist" in second.stderr
    assert "choose another name" in second.stderr
    assert Verifier(Path("new.pub.pem").read_bytes())


def test_creates_a_missing_public_key() -> None:
    before = Path("key").read_bytes()
    Path("key.pub.pem").unlink()
    done = run("key", "--out", "key")

    assert (done.exit_code, Path("key").read_bytes()) == (0, before)
    assert (
        done.stdout == "key exists and was not changed; created key.pub.pem (public)\n"
    )
    assert Path("key.pub.pem").read_bytes() == KEY.public_pem()


def test_overwrites_no_other_file() -> None:
    Path("key").unlink()
    orphan, other = run("key", "--out", "key"), run("key", "--out", "export")

    assert (orphan.exit_code, other.exit_code) == (2, 2)
    assert "key.pub.pem exists" in orphan.stderr
    assert "export exists and is not a usable checkpoint key" in other.stderr
    assert not Path("key").exists()


# ``hotwallet audit configurations``: output and exit statuses.

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
