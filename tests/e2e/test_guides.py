"""Guides whose commands need at most a node: they run, and what they show is true."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dev.anvil import ROOT
from signer.config.networks import load_networks
from tests.e2e.console import Console, Guide, read_blocks, run_block
from tests.fixtures.chain import DevChain
from tests.support.forked_processes import command_for_shells
from tests.support.policy_reload import compiled


GUIDES = ROOT / "docs" / "how-to"
REFERENCE = ROOT / "docs" / "reference"
GUIDE = GUIDES / "several-wallets.md"

_UNITS = re.compile(r"^for name.*?^done$", re.MULTILINE | re.DOTALL)

_RULE = re.compile(r"^ *```cedar\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def console(tmp_path: Path) -> Iterator[Console]:
    """A shell in an empty folder, which has the command."""
    with command_for_shells() as folder:
        shell = Console(tmp_path, {})
        shell.run(f'export PATH="{folder}:{Path(sys.executable).parent}:$PATH"')
        yield shell
        shell.close()


def test_a_network_and_a_tenant_are_added(
    console: Console, anvil: DevChain, tmp_path: Path
) -> None:
    """Each command prints what the page shows, also about a wrong file."""
    (tmp_path / "node.url").write_text(f"{anvil.url}\n", encoding="utf-8")
    console.run(f"export TOKEN={anvil.token}")
    blocks = read_blocks(GUIDES / "add-a-network.md")

    assert [report for each in blocks for report in run_block(console, each)] == []
    assert len(blocks) > 3
    other = load_networks(tmp_path / "networks.new.toml")["other"]
    assert other.rpc_urls[0].get_secret_value() == anvil.url


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


def test_a_token_is_made_and_checked(console: Console) -> None:
    """*Use SoftHSM*; the doctor is shown with a wrong PIN."""
    guide = Guide(console, GUIDES / "softhsm.md")

    guide.follow("hotwallet softhsm init")
    guide.follow("hotwallet softhsm list")
    console.run("umask 077; openssl rand -hex 32 > key.hex; echo 1234 > wrong")
    console.run("export PKCS11_KEY_ID=02")
    guide.follow("hotwallet softhsm import")
    console.run("export PKCS11_PIN_FILE=$PWD/wrong")
    guide.follow("hotwallet softhsm doctor")

    assert guide.unused() == []


def test_the_mac_key_is_rotated(console: Console) -> None:
    """*Rotate the MAC key*, of a new database."""
    console.run("hotwallet db mac-key --out mac.key")
    console.run("export MAC_KEY_FILE=mac.key APP_ENV=development")
    console.run("hotwallet db upgrade")
    guide = Guide(console, GUIDES / "mac-key-rotation.md")

    guide.follow("hotwallet db mac-key")
    guide.follow("hotwallet db mac-key")
    guide.follow("hotwallet db upgrade")

    assert guide.unused() == []


def test_a_configuration_is_written(console: Console, tmp_path: Path) -> None:
    """*Configuration*: what `init` writes, and *Tenants*: one is listed and blocked."""
    guide = Guide(
        console,
        REFERENCE / "configuration.md",
        texts={"/home/me/refunds": str(tmp_path)},
    )
    guide.follow("hotwallet init")
    assert guide.unused() == []

    (tmp_path / "tenants.toml").write_text(
        '[tenants.shop]\nsubjects = ["shop-1", "shop-2", "shop-gateway"]\n',
        encoding="utf-8",
    )
    console.run("export HOTWALLET_NO_ENV_FILE=1 APP_ENV=development")
    console.run("export NETWORKS_FILE=networks.toml")
    console.run("export TENANTS_FILE=tenants.toml; hotwallet db upgrade")
    guide = Guide(
        console,
        REFERENCE / "tenants.md",
        texts={"block shop": "block shop --yes"},
    )
    guide.follow("hotwallet tenants list")
    guide.follow("hotwallet tenants block")
    assert guide.unused() == []


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

    assert compiled({"own.cedar": rule}).own_files
