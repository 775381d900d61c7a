"""``hotwallet audit verify`` and ``export``: output and exit statuses."""

import json
import os
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backends.sql.audit import AuditTables
from signer.audit.checkpoints import Verifier
from signer.audit.export import (
    End,
    checkpoint_line,
    end_line,
)
from signer.audit.hash_chain import GENESIS, sealed
from signer.model.audit_record import Record
from tests.api.cli.audit_commands import LINKS, run, verified
from tests.support.audit import (
    KEY,
    ORIGIN,
    chain,
    exported,
    record,
    records,
)
from tests.support.ledgers import DRAFTS, seal


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
