"""``hotwallet --help`` is fast, since commands are imported when they run."""

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from api.cli.__main__ import cli
from tests.api.commands import Run


ROOT = Path(__file__).parents[3]

HEAVY = {
    *("alembic", "boto3", "botocore", "cryptography", "eth_account", "falcon"),
    *("gunicorn", "jwt", "pkcs11", "pydantic", "requests", "sqlalchemy"),
    *("structlog", "web3", "api.bootstrap", "backends", "softhsm"),
}

HELP = """
import sys
from api.cli.__main__ import main
sys.argv = ["hotwallet", "--help"]
try:
    main()
finally:
    print(*sys.modules, sep="\\n", file=sys.stderr)
"""


def test_help_imports_no_heavy_library() -> None:
    """Help imports click and our errors, and no library that takes long to import."""
    finished = subprocess.run(
        [sys.executable, "-c", HELP],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    assert "Commands:" in finished.stdout
    assert HEAVY.isdisjoint(finished.stderr.split())


def test_help_lists_every_command(hotwallet: Run) -> None:
    """Each command has its line, in the order of the alphabet, and none is cut off."""
    commands = hotwallet("--help").out.partition("Commands:\n")[2]
    names = [line.split()[0] for line in commands.splitlines()]

    assert names == sorted(names)
    assert {*cli.commands, *cli.lazy} == set(names)
    assert "..." not in commands


@pytest.mark.parametrize("name", sorted(cli.lazy))
def test_the_table_of_commands(name: str) -> None:
    """Each row of the table leads to a command of that name."""
    command = cli.get_command(click.Context(cli), name)

    assert command is not None
    assert command.name == name


def test_unknown_command(hotwallet: Run) -> None:
    """A command that does not exist is a usage error."""
    finished = hotwallet("nonsense")

    assert finished.status == 2
    assert "No such command 'nonsense'" in finished.err
