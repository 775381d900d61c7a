"""``hotwallet --help`` is fast, since commands are imported when they run."""

import click
import pytest

from api.cli.__main__ import cli
from tests.api.commands import Run
from tests.support.programs import run_python


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
    finished = run_python("-c", HELP, environ={})

    assert "Commands:" in finished.stdout
    assert HEAVY.isdisjoint(finished.stderr.split())


WORKER = """
import os, sys
import api.cli.worker
from api.backend_factories import preload
from signer.config.settings import Settings
preload(Settings.from_env(os.environ))
print(*sys.modules, sep="\\n")
"""


def test_the_worker_imports_no_library_of_a_server() -> None:
    finished = run_python("-c", WORKER, environ={"APP_ENV": "test"})

    assert finished.returncode == 0, finished.stderr
    modules = set(finished.stdout.split())
    assert {"backends.json_rpc", "backends.pkcs11", "backends.sql"} <= modules
    assert modules & {"alembic", "falcon", "gunicorn", "jwt", "requests"} == set()


SETTINGS = """
import os, sys
from api.cli.__main__ import main
sys.argv = ["hotwallet", "--help"]
try:
    main()
finally:
    print(os.environ["ETH_HASH_BACKEND"], os.environ["MALLOC_ARENA_MAX"])
"""


def test_libraries_are_set_to_use_little_memory() -> None:
    """The environment's own values count."""
    finished = run_python("-c", SETTINGS, environ={"MALLOC_ARENA_MAX": "4"})

    assert finished.stdout.splitlines()[-1] == "pysha3 4"


def test_help_lists_every_command(hotwallet: Run) -> None:
    commands = hotwallet("--help").out.partition("Commands:\n")[2]
    names = [line.split()[0] for line in commands.splitlines()]

    assert names == sorted(names)
    assert {*cli.commands, *cli.lazy} == set(names)
    assert "..." not in commands


@pytest.mark.parametrize("name", sorted(cli.lazy))
def test_every_lazy_command_has_its_name(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)

    assert command is not None
    assert command.name == name


def test_an_unknown_command_is_a_usage_error(hotwallet: Run) -> None:
    finished = hotwallet("nonsense")

    assert finished.status == 2
    assert "No such command 'nonsense'" in finished.err


@pytest.mark.parametrize(
    ("words", "expected"),
    [("hotwallet reco", "plain,reconcile"), ("hotwallet config ch", "plain,check")],
)
def test_shells_complete_commands(words: str, expected: str) -> None:
    """As docs/reference/cli.md sets it up."""
    environ = {
        "_HOTWALLET_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    code = "import sys; sys.argv[0] = 'hotwallet'; from api.cli.__main__ import main;"
    finished = run_python("-c", f"{code} main()", environ=environ)

    assert finished.stdout.strip() == expected
