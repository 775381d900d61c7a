"""``hotwallet audit checkpoint`` and ``key``, and checkpoints kept elsewhere."""

import json
import stat
from pathlib import Path

import pytest

from backends.sql.audit import AuditTables
from signer.audit.checkpoints import CheckpointKey, Verifier
from signer.errors import ConfigurationError
from tests.api.cli.audit_commands import LINKS, MORE, run, verified
from tests.support.audit import (
    KEY,
    checkpoint,
    records,
)
from tests.support.ledgers import open_ledger


pytestmark = pytest.mark.usefixtures("files")


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
