"""The reason that an operator gives is in the audit records of each command."""

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest

from api.actions.catalogue import ACTIONS
from api.bootstrap import build_container, record_start
from api.cli.__main__ import cli
from backends.sql import SQLStore
from signer.ports.key_backend import KeyId
from tests.api.commands import Finished, Run
from tests.support.ledgers import copy_ledger, open_ledger, seal
from tests.support.refunds import World
from tests.support.restores import keep_log, requested, write_log


WHY = "asked by the treasurer"

GIVEN = ("--reason", WHY)


@dataclass
class Service:
    """A ledger with an active key, and its commands."""

    run: Run
    world: World
    folder: Path
    monkeypatch: pytest.MonkeyPatch
    networks: Callable[..., Path]

    def raise_limits(self) -> Finished:
        record_start(build_container(), "worker")
        path = self.networks()
        path.write_text(path.read_text().replace('"1000"', '"5000"'))
        return self.run("limits", "raise", *GIVEN)

    def restore(self) -> Finished:
        log = keep_log(self.world)
        self.world.step(requested(self.world, "paid"), times=3)
        copy = copy_ledger(self.folder / "hotwallet.db", self.folder / "copy.db")
        requested(self.world, "lost")
        self.monkeypatch.setenv("DATABASE_URL", f"sqlite:///{copy}")
        path = write_log(self.folder / "host.log", log)
        return self.run("restore", "--log", str(path), "--yes", *GIVEN)


COMMANDS: dict[str, Callable[[Service], Finished]] = {
    "limits raise": Service.raise_limits,
    "restore": Service.restore,
}


def _commands(group: click.Group, *path: str) -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from _commands(command, *path, name)
        elif command is not None:
            yield " ".join([*path, name]), command


def test_every_command_with_a_reason_has_a_case() -> None:
    """``tests/api/actions`` has the commands of actions."""
    with_reason = {
        path
        for path, command in _commands(cli)
        if any(parameter.name == "reason" for parameter in command.params)
    }

    assert with_reason == {*COMMANDS, *(each.command for each in ACTIONS)}


@pytest.fixture
def service(
    approving: Run,
    world: World,
    softhsm_key: KeyId,
    softhsm_environ: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    networks: Callable[..., Path],
    sqlite_store: SQLStore,
) -> Service:
    """A service where two administrators must agree."""
    for name, value in softhsm_environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PKCS11_KEY_ID", softhsm_key)
    return Service(approving, world, tmp_path, monkeypatch, networks)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_reason_is_in_every_record(service: Service, command: str) -> None:
    """Of the request, and of what came of it."""
    finished = COMMANDS[command](service)
    found = [
        each
        for each in _records()
        if each["actor"].startswith(("cli:", "token:alice", "token:bob"))
        and not each["event"].startswith(("digest-sign", "admin-access"))
    ]

    assert found, finished
    assert {each["details"].get("reason") for each in found} == {WHY}, found


def _records() -> list[dict[str, Any]]:
    with closing(open_ledger(os.environ["DATABASE_URL"])) as store:
        seal(store)
        return [each.record.fields for each in store.sealed(0, 1000)]
