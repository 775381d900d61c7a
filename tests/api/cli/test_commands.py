"""What all commands have in common: log, errors, questions, reasons and ``.env``."""

import ast
import json
import os
import pkgutil
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from importlib import import_module
from pathlib import Path

import click
import pytest

from api.actions.catalogue import ACTIONS
from api.cli.__main__ import cli
from api.cli.options import load_env_file
from api.views.codes import load_codes
from backends.sql import SQLStore
from signer.alerts import Alert
from signer.errors import HotWalletError
from signer.ports.key_backend import KeyId
from tests.api.commands import Run, Terminal
from tests.api.networks import write_networks
from tests.support.ledgers import copy_ledger, open_ledger, seal, write_mac_key
from tests.support.programs import run_python
from tests.support.refunds import World
from tests.support.restores import keep_log, requested, write_log


ROOT = Path(__file__).parents[3]


@pytest.fixture
def environ(sqlite_store: SQLStore, sqlite_url: str, tmp_path: Path) -> dict[str, str]:
    """The environment of a service with one network, whose nodes are not asked."""
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "APP_ENV": "test",
        "NETWORKS_FILE": str(write_networks(tmp_path / "networks.toml")),
        "DATABASE_URL": sqlite_url,
        "MAC_KEY_FILE": str(write_mac_key(tmp_path)),
    }


def _stop(environ: dict[str, str], *options: str, terminal: bool) -> tuple[str, str]:
    """Run ``hotwallet stop``; return standard output and standard error."""
    reader, writer = pty.openpty() if terminal else os.pipe()
    with os.fdopen(reader, "rb", buffering=0) as errors:
        finished = subprocess.run(
            [sys.executable, "-m", "api.cli", *options, "stop", "--reason", "test"],
            env=environ,
            stdout=subprocess.PIPE,
            stderr=writer,
            timeout=60,
            check=True,
        )
        os.write(writer, b"end\n")
        os.close(writer)
        as_json = b""
        while b"end" not in as_json:
            as_json += errors.read(65536)
    return finished.stdout.decode(), as_json.decode().rpartition("end")[0]


def _events(store: SQLStore) -> list[object]:
    seal(store)
    return [each.record.fields["event"] for each in store.sealed(0, 100)]


RECORDS = ["signing-stop-requested", "signing-stop-succeeded"]

RESULT = "everything: stopped"


def test_on_a_terminal(environ: dict[str, str], sqlite_store: SQLStore) -> None:
    """The result alone is shown; the audit records are in the ledger."""
    result, log = _stop(environ, terminal=True)

    assert (result.splitlines()[0], log) == (RESULT, "")
    assert _events(sqlite_store) == RECORDS


@pytest.mark.parametrize(("options", "terminal"), [(["--verbose"], True), ([], False)])
def test_the_log(environ: dict[str, str], options: list[str], terminal: bool) -> None:
    """With --verbose, or away from a terminal, standard error has the events."""
    result, log = _stop(environ, *options, terminal=terminal)

    assert result.splitlines()[0] == RESULT
    assert [json.loads(line)["event"] for line in log.splitlines()] == [
        *RECORDS,
        "alert",
    ]


# A usage error explains the mistake and shows no whole key id.

UUID = "e9ec0d42-2f1e-44cd-9066-2b4c499c2654"

ARN = f"arn:aws:kms:eu-central-1:111122223333:key/{UUID}"

KEY_IDS = [UUID, f"mrk-{UUID.replace('-', '')}", UUID.replace("-", "").upper()]

MISTYPED = [
    "{}",
    "{} --help",
    "keys {}",
    "keys {} --help",
    "keys list {}",
    "keys list --{}",
    "keys rotate {arn} {}",
    "keys rotate {arn} --{}",
    "keys rotate {arn} --wait {}",
    "keys rotate {arn} --wait={}",
    "keys failover {} {}",
    "keys revoke {} {}",
    "keys sweep {} {}",
    "refund explain rf_0 {}",
    "nonce {}",
    "audit verify /nowhere/{}",
    "softhsm import --file {}",
    "worker --interval {}",
    "token --role {}",
    "token --seconds {}",
    "doctor {}",
]


@pytest.mark.parametrize("typed", MISTYPED)
def test_a_mistyped_command(hotwallet: Run, typed: str) -> None:
    """Status 2; the message has at most eight characters of a key id."""
    for key_id in KEY_IDS:
        finished = hotwallet(*typed.format(key_id, key_id, arn=ARN).split())

        assert (finished.status, finished.out) == (2, "")
        assert "Error: " in finished.err
        assert key_id not in finished.err
        assert key_id[:8] + "..." in finished.err
        assert ARN not in finished.err


def test_an_address_is_quoted(hotwallet: Run) -> None:
    """An address is not a key id, and is shown as it was typed."""
    address = "0x17135a05eF2397dB21A16703Dfcb45e76830aD41"

    assert f"({address})" in hotwallet("keys", "list", address).err


_BROKEN_IMPORT = """
import sys
from api.cli.__main__ import cli, main
from api.cli.lazy import LazyCommand

sys.path.insert(0, sys.argv.pop(1))
cli.lazy = {"broken": LazyCommand("broken_command:command", "")}
main()
"""


def test_a_command_that_cannot_be_imported(tmp_path: Path) -> None:
    """The message of an error at import is not printed either."""
    (tmp_path / "broken_command.py").write_text(f"raise RuntimeError({UUID!r})")

    finished = run_python("-c", _BROKEN_IMPORT, str(tmp_path), "broken", environ={})

    assert (finished.returncode, finished.stdout) == (1, "")
    assert "broken_command:1" in finished.stderr
    assert UUID not in finished.stderr


# Commands that change something dangerous ask first; the kill switch does not.

DANGEROUS = [
    (
        *each.command.split(),
        *("1234" for field in each.fields if field.argument),
        *("--reason", "why"),
    )
    for each in ACTIONS
    if each.asks and not each.asks_with_plan
]


@pytest.fixture
def type_line(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that lets the operator type a line."""
    return lambda line: monkeypatch.setattr(sys, "stdin", Terminal(line + "\n"))


@pytest.mark.parametrize("command", DANGEROUS, ids=" ".join)
def test_refuses_without_a_terminal(run: Run, command: tuple[str, ...]) -> None:
    """Status 2 before anything is opened; the message names --yes and --dry-run."""
    finished = run(*command)

    assert (finished.status, finished.out) == (2, "")
    assert "nothing was changed" in " ".join(finished.err.split())
    assert "--yes" in finished.err
    assert "--dry-run" in finished.err


@pytest.mark.parametrize("command", DANGEROUS, ids=" ".join)
def test_an_operator_declines(
    run: Run, type_line: Callable[[str], None], command: tuple[str, ...]
) -> None:
    """Status 1 and nothing on standard output; the default answer is no."""
    type_line("")
    finished = run(*command)

    # Python's own ``input`` leaves a space on standard output.
    assert (finished.status, finished.out.strip()) == (1, "")
    assert "? [y/N]:" in finished.err
    assert finished.err.endswith("cancelled: nothing was changed\n")


@pytest.mark.parametrize("line", ["y", "n"])
def test_an_operator_answers(
    run: Run, sqlite_store: SQLStore, type_line: Callable[[str], None], line: str
) -> None:
    """The question names the tenant, and only "yes" blocks it."""
    type_line(line)
    finished = run("tenants", "block", "shop")

    assert "Block a tenant: shop?" in finished.err
    assert bool(sqlite_store.blocks()) == (line == "y")


@pytest.mark.parametrize("verb", ["stop", "resume"])
def test_the_kill_switch_does_not_ask(run: Run, verb: str) -> None:
    """R27: stopping and resuming need no terminal and no `--yes`."""
    assert run(verb, "--reason", "test").status == 0


@pytest.mark.parametrize("verb", ["stop", "resume"])
def test_the_kill_switch_asks_for_a_reason(
    run: Run, type_line: Callable[[str], None], verb: str
) -> None:
    """The bare command works on a terminal; a script must give the reason."""
    without = run(verb)
    type_line("odd refunds")
    asked = run(verb)

    assert (without.status, without.out) == (2, "")
    assert "Missing option '--reason'" in without.err
    assert asked.status == 0
    assert "Reason: " in asked.err


# The reason that an operator gives is in the audit records of each command.

WHY = "asked by the treasurer"


def _commands(group: click.Group, *path: str) -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from _commands(command, *path, name)
        elif command is not None:
            yield " ".join([*path, name]), command


def test_every_command_with_a_reason_has_a_case() -> None:
    """
    The others are here and in ``test_limits``.

    ``tests/api/actions`` has the commands of actions.
    """
    with_reason = {
        path
        for path, command in _commands(cli)
        if any(parameter.name == "reason" for parameter in command.params)
    }

    assert with_reason == {
        "limits raise",
        "restore",
        *(each.command for each in ACTIONS),
    }


def test_the_reason_of_a_restore_is_in_every_record(
    *,
    approving: Run,
    world: World,
    softhsm_key: KeyId,
    softhsm_environ: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of the request, and of what came of it."""
    for name, value in softhsm_environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PKCS11_KEY_ID", softhsm_key)
    log = keep_log(world)
    world.step(requested(world, "paid"), times=3)
    copy = copy_ledger(tmp_path / "hotwallet.db", tmp_path / "copy.db")
    requested(world, "lost")
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{copy}")
    path = write_log(tmp_path / "host.log", log)
    finished = approving("restore", "--log", str(path), "--yes", "--reason", WHY)
    with closing(open_ledger(f"sqlite:///{copy}")) as store:
        seal(store)
        records = [each.record.fields for each in store.sealed(0, 1000)]
    found = [
        each["details"].get("reason")
        for each in records
        if each["actor"].startswith("cli:")
        and not each["event"].startswith(("digest-sign", "admin-access"))
    ]

    assert found, finished
    assert {*found} == {WHY}


# ``hotwallet`` loads ``.env`` in development, and never in production.


@pytest.fixture
def env_file(tmp_path: Path) -> Path:
    path = tmp_path / ".env"
    path.touch(0o600)
    path.write_text(
        "# A comment.\nAPP_ENV=development\nPORT='80 80' # Another.\nA=${PORT}\nNONE\n"
    )
    return path


def test_sets_missing_variables(env_file: Path) -> None:
    """Values are taken literally."""
    environ = {"APP_ENV": "test"}

    assert load_env_file(environ, env_file) == f"loaded {env_file}"
    assert environ == {"APP_ENV": "test", "PORT": "80 80", "A": "${PORT}"}
    assert load_env_file(environ, env_file) is None


def test_an_empty_variable_counts_as_unset(env_file: Path) -> None:
    env_file.write_text("APP_ENV=development\nPORT=80\n", encoding="utf-8")
    environ = {"APP_ENV": "", "PORT": " "}

    load_env_file(environ, env_file)

    assert environ == {"APP_ENV": "development", "PORT": "80"}


def test_a_file_names_no_code(env_file: Path) -> None:
    """A file of the working directory would load a package into the signer."""
    env_file.write_text("APP_ENV=test\nHOTWALLET_EXTRAS=other\n")
    environ: dict[str, str] = {}
    load_env_file(environ, env_file)

    assert environ == {"APP_ENV": "test"}


@pytest.mark.parametrize("app_env", ["production", "Production", "prod", " staging "])
def test_loads_nothing_in_production(env_file: Path, app_env: str) -> None:
    environ = {"APP_ENV": app_env}

    assert "not loaded: APP_ENV is production" in str(load_env_file(environ, env_file))
    assert environ == {"APP_ENV": app_env}


@pytest.mark.parametrize("line", ["APP_ENV=production", "APP_ENV=", ""])
def test_loads_nothing_if_the_file_says_production(env_file: Path, line: str) -> None:
    env_file.write_text(f"{line}\nA=1\n")
    environ: dict[str, str] = {}

    assert "not loaded: APP_ENV is production" in str(load_env_file(environ, env_file))
    assert environ == {}


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_refuses_a_file_that_others_may_write(env_file: Path, mode: int) -> None:
    env_file.chmod(mode)
    environ: dict[str, str] = {}

    assert "another user may write it" in str(load_env_file(environ, env_file))
    assert environ == {}


def test_refuses_a_file_of_another_user(
    env_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)

    assert "another user may write it" in str(load_env_file({}, env_file))


def test_does_not_quote_a_file_that_is_not_text(env_file: Path) -> None:
    env_file.write_bytes(b"A=\xff\xfe")

    assert str(load_env_file({}, env_file)).endswith("not loaded: UnicodeDecodeError")


def test_a_missing_file_is_ignored(tmp_path: Path) -> None:
    assert load_env_file({}, tmp_path / ".env") is None


@pytest.mark.parametrize(
    ("options", "messages"), [((), ["loaded .env"]), (("--no-env-file",), [])]
)
def test_the_command_reports_the_file(
    env_file: Path, options: tuple[str, ...], messages: list[str]
) -> None:
    arguments = ("-m", "api.cli", *options, "token")
    finished = run_python(*arguments, environ={}, cwd=env_file.parent)
    lines = finished.stderr.splitlines()

    assert [line for line in lines if ".env" in line] == messages
    forbidden = any("dev-tokens-forbidden" in line for line in lines)
    assert forbidden == bool(options)  # Without the file, this is production.


# ``hotwallet explain-code`` explains every code that the program can print.

PACKAGES = ("signer", "backends", "api", "softhsm")


def _explained(kind: str) -> set[str]:
    return {each["code"] for each in load_codes() if each["kind"] == kind}


def _error_codes(kind: type[HotWalletError]) -> Iterator[str]:
    """Yield the codes of *kind* and its subclasses, except for those of tests."""
    if kind.__module__.partition(".")[0] in PACKAGES:
        yield kind.code
    for subclass in kind.__subclasses__():
        yield from _error_codes(subclass)


def _refusal_codes() -> Iterator[str]:
    """Yield the literal first argument of every call that makes a refusal."""
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            if "Refus" not in text and "_refusal" not in text:
                continue  # Parsing takes ten times longer.
            for node in ast.walk(ast.parse(text)):
                match node:
                    case ast.Call(
                        func=ast.Name(
                            id="Refusal" | "RefusedInProduction" | "_refusal"
                        ),
                        args=[ast.Constant(value=str(code)), *_],
                    ):
                        yield code


def test_every_alert_has_an_entry() -> None:
    """And a runbook, which another test checks."""
    assert _explained("alert") == {str(alert) for alert in Alert}


def test_every_refusal_has_an_entry() -> None:
    codes = set(_refusal_codes())

    assert {"settings-invalid", "debug-forbidden", "gunicorn-overridden"} <= codes
    assert codes <= _explained("refusal")


def test_every_error_has_an_entry() -> None:
    for name in PACKAGES:
        package = import_module(name)
        for module in pkgutil.walk_packages(package.__path__, f"{name}."):
            # These are run by Python, Alembic and gunicorn, and cannot be imported.
            if not module.name.endswith((".__main__", ".env", ".gunicorn_conf")):
                import_module(module.name)

    assert set(_error_codes(HotWalletError)) == _explained("error")


def test_an_entry_as_text(hotwallet: Run) -> None:
    """A code may have several entries."""
    finished = hotwallet("explain-code", "Chain-Unavailable")
    lines = finished.out.splitlines()

    assert finished.status == 0
    assert lines[0] == "chain-unavailable (guard refusal): No node answers"
    assert lines[1].startswith("  Meaning: ")
    assert lines[2].startswith("  Cure:    ")
    assert lines[3] == "chain-unavailable (error): No node answers"


def test_an_entry_as_json(hotwallet: Run) -> None:
    (entry,) = hotwallet("explain-code", "debug-forbidden", "--json").json

    assert entry == {
        "code": "debug-forbidden",
        "kind": "refusal",
        "title": "DEBUG is forbidden in production",
        "meaning": "DEBUG=true in production.",
        "cure": "Unset it.",
    }


def test_lists_all_entries_without_a_code(hotwallet: Run) -> None:
    finished, for_programs = (
        hotwallet("explain-code"),
        hotwallet("explain-code", "--json"),
    )

    assert len(finished.out.splitlines()) == len(load_codes())
    assert for_programs.json == list(load_codes())


def test_an_unknown_code(hotwallet: Run) -> None:
    finished = hotwallet("explain-code", "nonsense")

    assert (finished.status, finished.out) == (1, "")
    assert finished.err.startswith("error: not-found: there is no such code")
