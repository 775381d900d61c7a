"""The commands in the README and in the tutorial print what the documents show."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from dev.stack import exports, running_stack
from tests.e2e.console import Block, Console, read_blocks, run_block


pytestmark = pytest.mark.needs("curl", "openssl")


ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
TUTORIAL = ROOT / "docs" / "tutorial" / "first-refund.md"


@pytest.fixture
def console(tmp_path: Path) -> Iterator[Console]:
    """A shell beside a new stack, as after `make dev`."""
    home = tmp_path / ".hotwallet" / "dev"
    with running_stack(home, has_webhook=True) as stack:
        (home / "env").write_text(exports(stack.environ), encoding="utf-8")
        shell = Console(tmp_path, {"http://127.0.0.1:8080": stack.url})
        yield shell
        shell.close()


@pytest.mark.parametrize("document", [README, TUTORIAL], ids=lambda path: path.name)
def test_every_console_block_prints_what_it_shows(
    console: Console, document: Path
) -> None:
    """Each block runs, in order, and its output is the documented one."""
    blocks = [block for block in read_blocks(document) if not block.reason]

    reports = [report for block in blocks for report in run_block(console, block)]

    assert blocks
    assert not reports, "\n\n".join(reports)


@pytest.mark.parametrize("document", [README, TUTORIAL], ids=lambda path: path.name)
def test_every_make_target_exists(document: Path) -> None:
    """Each `make` command in a console block is a target of the Makefile."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^([a-z-]+):", makefile, re.MULTILINE)
    commands = [
        match[1]
        for block in read_blocks(document)
        for step in block.steps
        if (match := re.match(r"make ([a-z-]+)", step.command))
    ]

    assert commands
    assert set(commands) <= set(targets)


def test_a_block_that_is_not_run_has_a_reason() -> None:
    """Only `make` commands are left out."""
    left_out: list[Block] = [
        block
        for document in (README, TUTORIAL)
        for block in read_blocks(document)
        if block.reason
    ]

    assert all(
        step.command.startswith("make ") for block in left_out for step in block.steps
    )
