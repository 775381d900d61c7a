"""``hotwallet audit``: the answers alone on standard output, and what it exits with."""

import json
import os
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backends.sql.audit import AuditTables
from signer.audit.checkpoints import Verifier
from signer.audit.export_format import header_line, record_line
from signer.audit.hash_chain import GENESIS, sealed
from tests.api.cli.audit_commands import LINKS, run, verified
from tests.support.audit import (
    KEY,
    ORIGIN,
    chain,
    exported,
    record,
    records,
)


pytestmark = pytest.mark.usefixtures("files")


def test_verifies() -> None:
    """A good export exits with 0, and says how far it is signed."""
    done = verified()

    assert (done.exit_code, done.stdout.splitlines()[0]) == (
        0,
        f"ok: 4 records of {ORIGIN}",
    )
    assert "not signed yet: the last 2" in done.stdout


def test_names_the_bad_record() -> None:
    """A bad export exits with 1, and names record and line."""
    lines = exported(LINKS, [2])
    Path("export").write_bytes(b"".join([*lines[:4], *lines[5:]]))
    told, document = verified(), verified("--json")

    assert (told.exit_code, document.exit_code) == (1, 1)
    assert told.stdout.startswith("BAD: record 3 (line 5): missing")
    assert json.loads(document.stdout)["finding"]["record"] == 3


def test_keys_and_exports_that_are_none() -> None:
    """A key that is none, and a file that is not there, exit with 2."""
    assert verified("--public-key", "export").exit_code == 2
    assert run("verify", "gone", "--public-key", "key.pub.pem").exit_code == 2


def test_exports_what_verifies(
    journal: AuditTables, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seal, sign, export, verify: each with its command, to a file and to a pipe."""
    monkeypatch.setenv("AUDIT_SIGNING_KEY_FILE", "key")
    journal.append(records(3))
    made = run("checkpoint", "--new")
    shown = run("checkpoint")
    piped = run("export")
    written = run("export", "--out", "export")
    judged = verified("--json")

    codes = [each.exit_code for each in (made, shown, piped, written, judged)]
    assert codes == [0] * 5
    assert made.stdout == shown.stdout
    assert Verifier(KEY.public_pem()).verify(made.stdout).size == 3
    assert piped.stdout_bytes == Path("export").read_bytes()
    assert json.loads(judged.stdout)["signed"] == 3
    assert list(Path().glob(".export*")) == []


def test_a_long_export_says_how_far_it_is() -> None:
    """A chain that takes long to verify is counted on standard error meanwhile."""
    links = chain(100_000)
    Path("export").write_bytes(b"".join(exported(links, [100_000])))
    done = verified("--json")

    assert (done.exit_code, done.stderr) == (0, "100000 lines\n")
    assert json.loads(done.stdout)["records"] == 100_000


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
    done = verified()

    assert done.exit_code == 1
    assert done.stdout.startswith(f"BAD: {told}")
    assert "export it again" in done.stdout


def test_a_file_cut_inside_a_character() -> None:
    """A4: half a character of UTF-8 at the end is a tear like any other."""
    links = sealed(0, GENESIS, [record(text="\U0001f512")])
    line = record_line(links[0])
    cut = line[: line.index("\U0001f512".encode()) + 2]
    Path("export").write_bytes(header_line(ORIGIN) + cut)
    done = verified()

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
    over, fresh = run("export", "--out", "export"), run("export", "--out", "fresh")

    assert (over.exit_code, fresh.exit_code) == (2, 2)
    assert Path("export").read_bytes() == before
    assert not [*Path().glob("fresh"), *Path().glob(".*")]


def test_a_key_that_does_not_fit(limit: Callable[[int], None]) -> None:
    """No half key is left where somebody would take it for one."""
    limit(10)
    made = run("key", "--out", "new")

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
            run("export", "--out", "export")
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
    assert run("export", "--out", "export").exit_code == 0
    assert b'"records":50}}\n' in Path("export").read_bytes()


def test_tells_what_was_signed_late() -> None:
    """The longest gap is told in a line, and all of them in the object."""
    links = chain(900, seconds=1)
    Path("export").write_bytes(b"".join(exported(links, [60, 300, 900])))
    told, document = verified(), verified("--json")

    assert (told.exit_code, document.exit_code) == (0, 0)
    assert "signed late: 2 times, longest the 600 from 301 on, 540 s" in told.stdout
    assert json.loads(document.stdout)["signedLate"] == [
        {"record": 61, "records": 240, "seconds": 180},
        {"record": 301, "records": 600, "seconds": 540},
    ]


def test_all_of_it_is_signed() -> None:
    """With a checkpoint of the last record, nothing is left unsigned."""
    Path("export").write_bytes(b"".join(exported(LINKS, [4])))
    Path("bare").write_bytes(b"".join(exported(LINKS, [])))
    bare = run("verify", "bare", "--public-key", "key.pub.pem")

    assert "not signed yet" not in verified().stdout
    assert bare.exit_code == 1
    assert "no checkpoint: anybody could have made it" in bare.stdout
