"""Guides whose commands need no chain: they run, and what they show is true."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dev.anvil import ROOT
from tests.e2e.console import Console, read_blocks, run_block
from tests.support.policy_reload import compiled


GUIDES = ROOT / "docs" / "how-to"
GUIDE = GUIDES / "several-wallets.md"

_UNITS = re.compile(r"^for name.*?^done$", re.MULTILINE | re.DOTALL)

_RULE = re.compile(r"^ *```cedar\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def console(tmp_path: Path) -> Iterator[Console]:
    """A shell in an empty folder, which has the command."""
    shell = Console(tmp_path, {})
    shell.run(f'export PATH="{Path(sys.executable).parent}:$PATH"')
    yield shell
    shell.close()


def test_a_network_and_a_tenant_are_added(console: Console) -> None:
    """Each command prints what the page shows, also about a wrong file."""
    blocks = read_blocks(GUIDES / "add-a-network.md")

    assert [report for each in blocks for report in run_block(console, each)] == []
    assert len(blocks) > 3


def test_the_commands_print_what_the_guide_shows(
    console: Console, tmp_path: Path
) -> None:
    """Both wallets have keys, a database and settings of their own."""
    blocks = read_blocks(GUIDE)

    assert [report for each in blocks for report in run_block(console, each)] == []
    addresses = [
        re.search(
            "0x[0-9a-fA-F]{40}",
            console.run(f"cd {folder}; hotwallet softhsm list; cd .."),
        )
        for folder in ("shop", "treasury")
    ]
    first, second = (each[0] for each in addresses if each is not None)
    assert first != second
    for name in ("mac.key", "hotwallet.db", "jwt.pem"):
        shop, treasury = (
            (tmp_path / folder / ".hotwallet" / name).read_bytes()
            for folder in ("shop", "treasury")
        )
        assert shop != treasury


def test_the_units_share_no_file(tmp_path: Path) -> None:
    (command,) = _UNITS.findall(GUIDE.read_text(encoding="utf-8"))
    subprocess.run(
        ["bash", "-euc", command.replace("/etc/systemd/system", str(tmp_path))],
        cwd=ROOT,
        check=True,
    )

    units = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()}
    assert set(units) == {
        f"treasury-{each}.service" for each in ("refunds", "worker", "admin")
    }
    for text in units.values():
        assert "/etc/treasury/" in text
        assert "StateDirectory=treasury-" in text
        assert "/etc/hotwallet/" not in text
        assert "ExecStart=/opt/hotwallet/bin/hotwallet " in text


def test_the_rule_of_the_treasury_is_valid() -> None:
    (rule,) = _RULE.findall(GUIDE.read_text(encoding="utf-8"))

    assert compiled({"own.cedar": rule}).is_extended
