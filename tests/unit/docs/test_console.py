"""The comparison of documented and printed output."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.console import Console, read_blocks, run_block


ADDRESS = "0xC4C43073ebc4539CC616cB4D973e42c2BA5Dd162"
OTHER = "0x7F044f5972A8bf9D74a723Ca24dd1ab0FD32dE82"


@pytest.fixture
def console(tmp_path: Path) -> Iterator[Console]:
    """Return a shell in an empty folder."""
    shell = Console(tmp_path, {})
    yield shell
    shell.close()


@pytest.mark.parametrize(
    ("documented", "printed"),
    [
        ("block 38", "block 4711"),
        ("at 2026-11-25T18:02:49.015579Z", "at 2027-01-01T00:00:00Z"),
        ("{a: 1,\n b: 2}", "{a: 1, b: 2}"),
        ("first ... last", "first\nand more\nlast"),
        (f"from {ADDRESS}", f"from {OTHER}"),
        ("rf_01a2", "rf_9999"),
    ],
)
def test_accepts_differences_between_runs(
    console: Console, documented: str, printed: str
) -> None:
    """Numbers, times, addresses, ids and line breaks may differ."""
    assert console.matches(documented, printed)


@pytest.mark.parametrize(
    ("documented", "printed"),
    [
        ("status 0", "status 1"),
        ('"status": 409', '"status": 500'),
        ("queued", "confirmed"),
        ("ok", "ok\nwarning"),
        (f"{ADDRESS} {ADDRESS}", f"{ADDRESS} {OTHER}"),
        (f"from {ADDRESS}", "from 7"),
    ],
)
def test_refuses_another_text(console: Console, documented: str, printed: str) -> None:
    """Another word, more lines, or two addresses for one are a difference."""
    assert not console.matches(documented, printed)
    # A documented address stands for the printed one, also in later commands.
    assert console.matches(f"now {ADDRESS}", f"now {OTHER}")
    assert not console.matches(f"now {ADDRESS}", f"now {ADDRESS}")
    assert console.run(f"echo {ADDRESS}") == OTHER


def test_runs_a_block(console: Console, tmp_path: Path) -> None:
    """Variables are kept, continuation lines belong to a command, logs are removed."""
    page = tmp_path / "page.md"
    page.write_text(
        """\
```console
$ NAME=world
$ echo "hello" \\
    "$NAME"; echo '{"event": "x", "logger": "audit"}'
hello world
$ false; echo "status $?"
status 0
```
""",
        encoding="utf-8",
    )
    (block,) = read_blocks(page)

    (report,) = run_block(console, block)

    assert 'echo "status $?"' in report
    assert report.endswith("--- printed\nstatus 1")
