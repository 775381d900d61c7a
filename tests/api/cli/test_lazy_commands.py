"""Commands are fast, since each imports what it uses when it runs."""

import re
from collections.abc import Mapping
from pathlib import Path

import click
import pytest

from api.auth.dev_tokens import provide_signing_key
from api.cli.__main__ import cli
from tests.api.commands import Run
from tests.api.networks import write_networks
from tests.support.ledgers import write_mac_key
from tests.support.programs import run_python


HEAVY = {
    *("alembic", "asn1crypto", "boto3", "botocore", "cedarpy", "btclib_secp256k1"),
    *("cryptography", "eth_abi", "eth_account", "eth_utils", "falcon", "gunicorn"),
    *("http_message_signatures", "jinja2", "jwt", "pkcs11", "prometheus_client"),
    *("pydantic", "requests", "rlp", "sqlalchemy", "structlog", "urllib3", "web3"),
}
"""Libraries, each of which takes 10 ms of CPU time or much more to import."""

HELP_OF_ALL = """
import sys
import click
from api.cli.__main__ import cli

def show(command, context):
    command.get_help(context)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            if name not in {"softhsm", "hsm"}:  # Their module needs the settings.
                child = command.get_command(context, name)
                show(child, click.Context(child, context, name))
    else:
        print(context.command_path)

show(cli, click.Context(cli, info_name="hotwallet"))
print(*sys.modules, file=sys.stderr)
"""


def test_the_help_of_no_command_imports_a_heavy_library() -> None:
    """Nor does a usage error: options are declared, and nothing else."""
    finished = run_python("-c", HELP_OF_ALL, environ={})

    assert "hotwallet keys rotate" in finished.stdout.splitlines()
    heavy = HEAVY | {"api.bootstrap", "api.container", "backends", "softhsm"}
    assert heavy & set(finished.stderr.split()) == set()


RUN = f"""
import gc, sys
HEAVY = {HEAVY}
from api.cli.__main__ import main
for command in sys.argv[1:]:
    sys.argv = ["hotwallet", *command.split()]
    try:
        main()
    except SystemExit as e:
        print("status:", e.code or 0, file=sys.stderr)
searches = gc.get_stats()[2]["collections"]
print("searches:", searches, file=sys.stderr)
print("loaded:", *HEAVY & sys.modules.keys(), file=sys.stderr)
"""


SETTINGS_READ = {"cryptography", "eth_utils", "pydantic"}
LEDGER_READ = {*SETTINGS_READ, "sqlalchemy", "structlog"}

NODES_READ = {*LEDGER_READ, "btclib_secp256k1", "eth_abi", "urllib3"}
DEVICE_READ = {*LEDGER_READ, "asn1crypto", "btclib_secp256k1", "pkcs11"}

LOADED: Mapping[str, tuple[set[str], list[str]]] = {
    "codes": (set(), ["explain-code kms-not-configured"]),
    "rules": ({*SETTINGS_READ, "cedarpy", "structlog"}, ["policy show"]),
    "configuration": (
        {*SETTINGS_READ, "cedarpy", "jwt", "structlog"},
        ["config check"],
    ),
    "tokens": ({*SETTINGS_READ, "jwt"}, ["token"]),
    "schema": ({*LEDGER_READ, "alembic"}, ["db upgrade"]),
    "ledger": (
        LEDGER_READ,
        [
            "approvals list",
            "audit configurations",
            "audit export",
            "keys list",
            "limits show",
            "refund list",
            "stop --reason test",
            "stops",
            "tenants list",
            "webhooks list",
        ],
    ),
    "nodes": (NODES_READ, ["nonce repair --network local --dry-run"]),
    "explanation": (NODES_READ, ["refund explain rf_0"]),
    "books": ({*NODES_READ, "jinja2"}, ["reconcile --from yesterday --to today"]),
}
"""
What the commands that ask no device load, of ``HEAVY``.

``tests/extras/doctor/test_doctor.py`` has the command that asks one.
"""

STATUSES = {
    "reconcile --from yesterday --to today": 2,  # No node answers.
    "refund explain rf_0": 1,  # There is no such refund.
    "stops": 1,  # After the stop.
}


@pytest.mark.parametrize("name", LOADED)
def test_commands_load_only_the_libraries_that_they_use(
    name: str, tmp_path: Path, sqlite_url: str
) -> None:
    """Nor does one search all that it imported for garbage."""
    private, public = tmp_path / "jwt.pem", tmp_path / "jwt.pub.pem"
    provide_signing_key(private, public)
    environ = {
        "APP_ENV": "test",
        "DATABASE_URL": sqlite_url,
        "HOTWALLET_HOME": str(tmp_path),
        "JWT_PUBLIC_KEY_FILE": str(public),
        "JWT_SIGNING_KEY_FILE": str(private),
        "MAC_KEY_FILE": str(write_mac_key(tmp_path)),
        "NETWORKS_FILE": str(write_networks(tmp_path / "networks.toml")),
    }
    libraries, commands = LOADED[name]
    finished = run_python("-c", RUN, *commands, environ=environ)
    statuses = re.findall(r"status: (\d+)", finished.stderr)

    assert statuses == [str(STATUSES.get(each, 0)) for each in commands], (
        finished.stderr
    )
    assert set(finished.stderr.rpartition("loaded:")[2].split()) <= libraries
    assert "searches: 0" in finished.stderr


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
