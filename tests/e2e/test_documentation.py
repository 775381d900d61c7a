"""The commands in the README and in the tutorial print what the documents show."""

import re
from pathlib import Path

import pytest

from dev.stack import exports, running_stack
from tests.e2e.console import Block, Console, read_blocks, run_block
from tests.support.forked_processes import ForkedHotWallet


pytestmark = pytest.mark.needs("curl", "openssl")


ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
TUTORIAL = ROOT / "docs" / "tutorial" / "first-refund.md"


def test_every_console_block_prints_what_it_shows(tmp_path: Path) -> None:
    """Each block runs, in order, beside a new stack, as after `make dev`."""
    home = tmp_path / ".hotwallet" / "dev"
    reports: list[str] = []
    with running_stack(home, has_webhook=True, program=ForkedHotWallet()) as stack:
        (home / "env").write_text(exports(stack.environ), encoding="utf-8")
        # Both documents begin with the same request.
        for document, own in (
            (README, {"try-1": "readme", "ps_1": "ps_0"}),
            (TUTORIAL, {}),
        ):
            console = Console(tmp_path, {"http://127.0.0.1:8080": stack.url, **own})
            blocks = [block for block in read_blocks(document) if not block.reason]
            assert blocks
            for block in blocks:
                reports += run_block(console, block)
            console.close()

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
