"""``hotwallet audit``: the answers alone on standard output, and what it exits with."""

import json
import os
import resource
import signal
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from api.audit_cli import audit
from backends.sql.audit import AuditTables
from backends.sql.database import Database
from signer.audit.chain import GENESIS, sealed
from signer.audit.checkpoints import Verifier
from signer.audit.lines import header_line, record_line
from signer.errors import ConfigurationError
from tests.support.audit import (
    KEY,
    ORIGIN,
    chain,
    checkpoint,
    exported,
    record,
    records,
)
from tests.support.cloudtrail import ARN, other_event, sign_event, trail_file
from tests.unit.audit.signings import at, intent, outcome


LINKS = chain(4)


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder with an export, its public key, and a signing key."""
    monkeypatch.chdir(tmp_path)
    Path("export").write_bytes(b"".join(exported(LINKS, [2])))
    Path("key.pub.pem").write_bytes(KEY.public_pem())
    Path("key").write_bytes(KEY.private_pem())
    Path("key").chmod(0o600)
    return tmp_path


@pytest.fixture
def journal(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> AuditTables:
    """Return the journal that the commands open."""
    monkeypatch.setenv("DATABASE_URL", sqlite_url)
    monkeypatch.setenv("APP_ENV", "test")
    monkeypatch.setenv("AUDIT_ORIGIN", "tests")
    return AuditTables(Database(sqlite_url, pool_size=1, timeout=5.0))


def _run(*arguments: str) -> Result:
    return CliRunner().invoke(audit, arguments)


def _verified(*arguments: str) -> Result:
    return _run("verify", "export", "--public-key", "key.pub.pem", *arguments)


def test_verifies() -> None:
    """A good export exits with 0, and says how far it is signed."""
    done = _verified()

    assert (done.exit_code, done.stdout.splitlines()[0]) == (
        0,
        f"ok: 4 records of {ORIGIN}",
    )
    assert "not signed yet: the last 2" in done.stdout


def test_names_the_bad_record() -> None:
    """A bad export exits with 1, and names record and line."""
    lines = exported(LINKS, [2])
    Path("export").write_bytes(b"".join([*lines[:4], *lines[5:]]))
    told, document = _verified(), _verified("--json")

    assert (told.exit_code, document.exit_code) == (1, 1)
    assert told.stdout.startswith("BAD: record 3 (line 5): missing")
    assert json.loads(document.stdout)["finding"]["record"] == 3


@pytest.mark.parametrize("form", ["note", "log"])
def test_holds_against_what_was_kept(form: str) -> None:
    """A checkpoint is taken as a note, and as the log line that it was told in."""
    note = checkpoint(chain(5), 5).note
    line = json.dumps({"event": "audit-checkpoint", "size": 5, "note": note})
    kept = note if form == "note" else f'{{"event":"x"}}\nnoise\n{line}\n'
    Path("kept").write_text(kept, encoding="utf-8")
    done = _verified("--checkpoint", "kept")

    assert done.exit_code == 1
    assert "a checkpoint kept elsewhere is of 5 records" in done.stdout


@pytest.mark.parametrize("kept", ["", "{}", "noise"])
def test_what_cannot_be_told(kept: str) -> None:
    """A kept checkpoint that is none exits with 2, and so does a key that is none."""
    Path("kept").write_text(kept, encoding="utf-8")

    assert _verified("--checkpoint", "kept").exit_code == 2
    assert _verified("--public-key", "export").exit_code == 2
    assert _run("verify", "gone", "--public-key", "key.pub.pem").exit_code == 2


def test_exports_what_verifies(
    journal: AuditTables, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seal, sign, export, verify: each with its command, to a file and to a pipe."""
    monkeypatch.setenv("AUDIT_SIGNING_KEY_FILE", "key")
    journal.append(records(3))
    made = _run("checkpoint", "--new")
    shown = _run("checkpoint")
    piped = _run("export")
    written = _run("export", "--out", "export")
    verified = _verified("--json")

    codes = [each.exit_code for each in (made, shown, piped, written, verified)]
    assert codes == [0] * 5
    assert made.stdout == shown.stdout
    assert Verifier(KEY.public_pem()).verify(made.stdout).size == 3
    assert piped.stdout_bytes == Path("export").read_bytes()
    assert json.loads(verified.stdout)["signed"] == 3
    assert list(Path().glob(".export*")) == []


def test_no_checkpoint_yet(journal: AuditTables) -> None:
    """Without a key, or before the first record, there is none to show."""
    journal.append(records(1))

    assert _run("checkpoint").exit_code == 2
    assert _run("checkpoint", "--new").exit_code == 2


def test_a_bad_signing_key_is_a_refusal(
    journal: AuditTables, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signing key is checked as the guard does, and its refusal passes through."""
    monkeypatch.setenv("AUDIT_SIGNING_KEY_FILE", "key.pub.pem")
    journal.append(records(1))

    assert isinstance(_run("checkpoint", "--new").exception, ConfigurationError)


def test_makes_a_key() -> None:
    """A new key is its owner's alone, its public key is not, and neither replaces."""
    first, second = _run("key", "--out", "new"), _run("key", "--out", "new")
    mode = stat.S_IMODE(Path("new").stat().st_mode)

    assert (first.exit_code, second.exit_code, mode) == (0, 2, 0o600)
    assert Verifier(Path("new.pub.pem").read_bytes())


def test_reconciles_with_the_database(journal: AuditTables) -> None:
    """An intruder exits with 1 and is named; without one it exits with 0."""
    journal.append([intent(0), outcome(1, "a")])
    journal.seal()
    ours, theirs = sign_event("a", at(1)), sign_event("x", at(600))
    good = trail_file(Path("good.json"), [ours])
    bad = trail_file(Path("bad.json.gz"), [ours, theirs])
    quiet = _run("reconcile", "--cloudtrail", str(good))
    loud = _run("reconcile", "--cloudtrail", str(good), "--cloudtrail", str(bad))
    document = _run("reconcile", "--cloudtrail", str(bad), "--key", ARN, "--json")

    assert (quiet.exit_code, loud.exit_code, document.exit_code) == (0, 1, 1)
    assert loud.stdout.startswith("INTRUDER: 1234abcd... signed at ")
    assert json.loads(document.stdout)["intruders"][0]["requestId"] == "x"
    assert ARN not in document.stdout + loud.stdout


def test_reconciles_with_an_export() -> None:
    """An auditor needs no database for that either."""
    trail = trail_file(Path("trail.json"), [sign_event("x", at(1))])
    told = _run("reconcile", "--cloudtrail", str(trail), "--export", "export")
    Path("export").write_bytes(b"torn")
    torn = _run("reconcile", "--cloudtrail", str(trail), "--export", "export")

    assert (told.exit_code, torn.exit_code) == (0, 2)


def test_tells_of_everything_that_it_found() -> None:
    """What is missing and what is explained is told beside the intruders."""
    edges = [other_event(at(-3600)), other_event(at(3600))]
    events = [*edges, sign_event("x", at(1)), sign_event("y", at(2))]
    trail = str(trail_file(Path("trail.json"), events))
    ours = [intent(0), outcome(900, "b", refund_id="rf_2")]
    Path("export").write_bytes(b"".join(exported(sealed(0, GENESIS, ours), [])))
    arguments = ("reconcile", "--cloudtrail", trail, "--export", "export")
    told, document = _run(*arguments), json.loads(_run(*arguments, "--json").stdout)

    assert told.exit_code == 1
    assert [line.partition(":")[0] for line in told.stdout.splitlines()] == [
        "INTRUDER",
        "not in CloudTrail",
        f"explained by crash of {ours[0].id}",
        "0 matched, 0 refused by KMS, 0 of a time that the files may not cover",
    ]
    assert document["missing"][0]["record"] == ours[1].id
    assert document["explained"][0]["reason"] == "crash"


@pytest.mark.parametrize(
    ("cut", "told"),
    [
        (0, "record 1 (line 1): the file is empty"),
        (-1, "record 5 (line 7): the line is torn"),
        (-40, "record 5 (line 7): the line is torn"),
    ],
)
def test_a_torn_export(cut: int, told: str) -> None:
    """A4: a file that was cut exits with 1, and says where and what to do."""
    whole = Path("export").read_bytes()
    Path("export").write_bytes(whole[:cut])
    done = _verified()

    assert done.exit_code == 1
    assert done.stdout.startswith(f"BAD: {told}")
    assert "export it again" in done.stdout


def test_a_file_cut_inside_a_character() -> None:
    """A4: half a character of UTF-8 at the end is a tear like any other."""
    links = sealed(0, GENESIS, [record(text="\U0001f512")])
    line = record_line(links[0])
    cut = line[: line.index("\U0001f512".encode()) + 2]
    Path("export").write_bytes(header_line(ORIGIN) + cut)
    done = _verified()

    assert done.exit_code == 1
    assert done.stdout.startswith("BAD: record 1 (line 2): the line is torn")


@pytest.fixture
def limit() -> Iterator[Callable[[int], None]]:
    """Let no file of this process grow beyond so many bytes, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [0, 1, 700, 5000])
def test_a_full_disk(
    journal: AuditTables, limit: Callable[[int], None], size: int
) -> None:
    """A4: an export that does not fit exits with 2, and what was there stays."""
    journal.append(records(50))
    journal.seal()
    before = Path("export").read_bytes()
    limit(size)
    over, fresh = _run("export", "--out", "export"), _run("export", "--out", "fresh")

    assert (over.exit_code, fresh.exit_code) == (2, 2)
    assert Path("export").read_bytes() == before
    assert not [*Path().glob("fresh"), *Path().glob(".*")]


def test_a_key_that_does_not_fit(limit: Callable[[int], None]) -> None:
    """No half key is left where somebody would take it for one."""
    limit(10)
    made = _run("key", "--out", "new")

    assert made.exit_code == 2
    assert not [*Path().glob("new*"), *Path().glob(".*")]


def _killed_export(size: int) -> int:
    """Export in a child that is killed at the first byte beyond *size*."""
    pid = os.fork()
    if pid == 0:
        # The kernel's signal, which Python ignores unless it is told otherwise.
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        try:
            _run("export", "--out", "export")
        finally:
            os._exit(0)
    return os.WTERMSIG(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("size", [0, 1, 83, 4096, 8191, 8193])
def test_killed_at_any_byte(journal: AuditTables, size: int) -> None:
    """A4: whoever is killed while he exports leaves what was there, or the whole."""
    journal.append(records(50))
    journal.seal()
    journal._database.close()
    before = Path("export").read_bytes()

    assert _killed_export(size) == signal.SIGXFSZ
    assert Path("export").read_bytes() == before
    assert _run("export", "--out", "export").exit_code == 0
    assert b'"records":50}}\n' in Path("export").read_bytes()


def test_all_of_it_is_signed() -> None:
    """With a checkpoint of the last record, nothing is left unsigned."""
    Path("export").write_bytes(b"".join(exported(LINKS, [4])))
    Path("bare").write_bytes(b"".join(exported(LINKS, [])))
    bare = _run("verify", "bare", "--public-key", "key.pub.pem")

    assert "not signed yet" not in _verified().stdout
    assert bare.exit_code == 1
    assert "no checkpoint: anybody could have made it" in bare.stdout
