"""``hotwallet audit``: checkpoints, as they are made and kept, and the key for them."""

import json
import stat
from pathlib import Path

import pytest

from backends.sql import SQLStore
from backends.sql.audit import AuditTables
from signer.audit.checkpoints import CheckpointKey, Verifier
from signer.errors import ConfigurationError
from tests.api.cli.audit_commands import LINKS, MORE, run, verified
from tests.support.audit import (
    KEY,
    checkpoint,
    records,
)


pytestmark = pytest.mark.usefixtures("files")


NOTES = [checkpoint(MORE, size).note for size in (2, 5)]
LOGGED = [
    json.dumps({"event": "audit-checkpoint", "size": size, "note": note})
    for size, note in zip((2, 5), NOTES, strict=True)
]
ALIKE = '{"event": "audit-checkpoint-of-another-key", "size": 2}'

KEPT = {
    "a note": NOTES[1],
    "a note without its last line feed": NOTES[1].rstrip("\n"),
    "a note with lines as on Windows": "\ufeff" + NOTES[1].replace("\n", "\r\n"),
    "notes": "".join(NOTES),
    "notes with lines between": "\n\n".join([*NOTES, ""]),
    "a log": f'{{"event":"x"}}\nnoise\n{ALIKE}\n{LOGGED[1]}\n',
    "a log of containers": "".join(f"api-1  | {line}\n" for line in LOGGED),
    "a log with times": f"2026-11-24T12:00:00Z {LOGGED[1]}",
    "a log with labels": f'{{app="hotwallet"}} {LOGGED[1]}\r\n',
}


@pytest.mark.parametrize("form", KEPT)
def test_holds_against_what_was_kept(form: str) -> None:
    """Checkpoints are taken as people keep them: as notes, and in the log's lines."""
    Path("kept").write_bytes(KEPT[form].encode())
    done = verified("--checkpoint", "kept")

    assert done.exit_code == 1
    assert "a checkpoint kept elsewhere is of 5 records" in done.stdout


NOT_KEPT = {
    "nothing": "",
    "noise": "noise",
    "quoted": f"> {NOTES[0]}",
    "one of two spoilt": NOTES[0] + NOTES[1].replace("Merkle", "merkle"),
    "an object": '{"event": "x"}',
    "another event": f'{{"event": "x", "of": "audit-checkpoint"}}\n{ALIKE}',
    "a line cut off": f"{LOGGED[0]}\n{LOGGED[1][:-9]}",
    "a note in a log": f"{LOGGED[0]}\n{NOTES[1]}",
    "no opening": '"audit-checkpoint"\n{"a": 1}',
    "no note": '{"event": "audit-checkpoint"}',
    "half a character": LOGGED[0].replace("hotwallet/", "hotwallet/\\ud800"),
    "by another key": checkpoint(LINKS, 2, key=CheckpointKey.generate()).note,
}


@pytest.mark.parametrize("form", NOT_KEPT)
def test_what_cannot_be_told(form: str) -> None:
    """A file without checkpoints exits with 2, is named, and what it should hold."""
    Path("kept").write_text(NOT_KEPT[form], encoding="utf-8")
    done = verified("--checkpoint", "kept")

    assert done.exit_code == 2
    assert "kept: " in done.stderr
    assert "expected notes as `hotwallet audit checkpoint` prints" in done.stderr


@pytest.mark.parametrize(
    ("count", "key", "said"),
    [
        (0, "key", ["--new makes one", "there is no record to sign for yet"]),
        (1, None, ["set AUDIT_SIGNING_KEY_FILE"] * 2),
    ],
)
def test_no_checkpoint_yet(
    journal: AuditTables,
    monkeypatch: pytest.MonkeyPatch,
    count: int,
    key: str | None,
    said: list[str],
) -> None:
    """Without a key, or before the first record, there is none to show, and why."""
    if key is None:
        monkeypatch.setenv("APP_ENV", "production")
    else:
        monkeypatch.setenv("AUDIT_SIGNING_KEY_FILE", key)
    journal.append(records(count))
    done = [run("checkpoint"), run("checkpoint", "--new")]

    assert [each.exit_code for each in done] == [2, 2]
    assert all(text in each.stderr for text, each in zip(said, done, strict=True))


def test_a_laptop_signs_by_hand_with_its_own_key(
    journal: AuditTables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the service made itself a key, the command signs with that one."""
    monkeypatch.setenv("HOTWALLET_HOME", str(tmp_path))
    (tmp_path / "audit.pem").write_bytes(KEY.private_pem())
    (tmp_path / "audit.pem").chmod(0o600)
    journal.append(records(1))
    made = run("checkpoint", "--new")

    Verifier(KEY.public_pem()).verify(made.stdout)
    assert made.exit_code == 0


def test_who_signs_by_hand_is_heard(
    journal: AuditTables, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint that was long due is made, and the alert is counted all the same."""
    monkeypatch.setenv("AUDIT_SIGNING_KEY_FILE", "key")
    journal.append(records(1))
    made = run("checkpoint", "--new")
    store = SQLStore(sqlite_url)
    counts = store.alert_counts()
    store.close()

    assert made.exit_code == 0
    assert counts == {"audit-signing-late": 1}


def test_a_bad_signing_key_is_a_refusal(
    journal: AuditTables, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signing key is checked as the guard does, and its refusal passes through."""
    monkeypatch.setenv("AUDIT_SIGNING_KEY_FILE", "key.pub.pem")
    journal.append(records(1))

    assert isinstance(run("checkpoint", "--new").exception, ConfigurationError)


def test_names_the_file_that_cannot_be_made() -> None:
    """A folder that is missing is status 2, and the file is named as it was given."""
    done = run("key", "--out", "nowhere/audit.pem")

    assert done.exit_code == 2
    assert "Error: nowhere/audit.pem: No such file or directory" in done.stderr


def test_makes_a_key() -> None:
    """A new key is its owner's alone, its public key is not, and neither replaces."""
    first, second = run("key", "--out", "new"), run("key", "--out", "new")
    mode = stat.S_IMODE(Path("new").stat().st_mode)

    assert (first.exit_code, second.exit_code, mode) == (0, 2, 0o600)
    assert "new and new.pub.pem are there already" in second.stderr
    assert "name another file" in second.stderr
    assert Verifier(Path("new.pub.pem").read_bytes())


def test_makes_a_missing_public_key_again() -> None:
    """Of a key that is there the public key is written, and the key stays."""
    before = Path("key").read_bytes()
    Path("key.pub.pem").unlink()
    done = run("key", "--out", "key")

    assert (done.exit_code, Path("key").read_bytes()) == (0, before)
    assert done.stdout == "key was there already, and stays; wrote key.pub.pem\n"
    assert Path("key.pub.pem").read_bytes() == KEY.public_pem()


def test_a_file_that_is_no_key_stays() -> None:
    """Where something else has the name, or a public key alone, nothing is written."""
    Path("key").unlink()
    orphan, other = run("key", "--out", "key"), run("key", "--out", "export")

    assert (orphan.exit_code, other.exit_code) == (2, 2)
    assert "key.pub.pem is there already" in orphan.stderr
    assert "export is there already, and is no key that can be used" in other.stderr
    assert not Path("key").exists()
