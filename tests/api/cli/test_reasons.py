"""The reason that an operator gives is in the audit records of each command."""

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest

from api.bootstrap import build_container, record_start
from api.cli.__main__ import cli
from backends.pkcs11 import PKCS11Backend
from backends.sql import SQLStore
from signer.ports.key_backend import KeyId
from tests.api.commands import AsAdministrator, Finished, Run
from tests.support.ledgers import copy_ledger, open_ledger, seal
from tests.support.refunds import World
from tests.support.restores import keep_log, requested, write_log


WHY = "asked by the treasurer"

GIVEN = ("--reason", WHY)

PREPARED = ("odd refunds", "explained")

ADDRESS = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"


@dataclass
class Service:
    """A ledger with an active key, and its commands."""

    run: Run
    as_administrator: AsAdministrator
    world: World
    device: PKCS11Backend
    folder: Path
    monkeypatch: pytest.MonkeyPatch
    networks: Callable[..., Path]

    def proposal(self) -> str:
        """Return the digest of what alice asks for."""
        stop, resume = PREPARED
        self.run("stop", "--reason", stop)
        self.as_administrator("alice", "signing:stop", "resume", "--reason", resume)
        (waiting,) = self.run("approvals", "list", "--json").json["approvals"]
        return str(waiting["digest"])

    def decide(self, verb: str) -> Finished:
        command = ("approvals", verb, self.proposal(), *GIVEN, "--yes")
        return self.as_administrator("bob", "approvals:decide", *command)

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


def _run(*command: str) -> Callable[[Service], Finished]:
    return lambda service: service.run(*command, *GIVEN)


# Also what is refused has its records.
COMMANDS: dict[str, Callable[[Service], Finished]] = {
    "stop": _run("stop"),
    "resume": _run("resume"),
    "tenants unblock": _run("tenants", "unblock", "gateway", "--yes"),
    "nonce repair": _run("nonce", "repair", "--yes"),
    "nonce abandon": _run("nonce", "abandon", ADDRESS, "--yes"),
    "keys rotate": lambda service: service.run(
        "keys", "rotate", service.device.generate("reasons"), "--yes", *GIVEN
    ),
    "keys revoke": _run("keys", "revoke", ADDRESS, "--yes"),
    "keys reinstate": _run("keys", "reinstate", ADDRESS, "--yes"),
    "limits raise": Service.raise_limits,
    "approvals approve": lambda service: service.decide("approve"),
    "approvals reject": lambda service: service.decide("reject"),
    "approvals break-glass": lambda service: service.run(
        "approvals", "break-glass", service.proposal(), *GIVEN, "--yes"
    ),
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
    """A command that is added must be tested like the others."""
    with_reason = {
        path
        for path, command in _commands(cli)
        if any(parameter.name == "reason" for parameter in command.params)
    }

    assert with_reason == {*COMMANDS}


@pytest.fixture
def service(
    as_administrator: AsAdministrator,
    approving: Run,
    world: World,
    softhsm: PKCS11Backend,
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
    return Service(
        approving, as_administrator, world, softhsm, tmp_path, monkeypatch, networks
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_the_reason_is_in_every_record(service: Service, command: str) -> None:
    """Of the request, and of what came of it."""
    finished = COMMANDS[command](service)
    found = [
        each
        for each in _records()
        if each["actor"].startswith(("cli:", "token:alice", "token:bob"))
        and each["details"].get("reason") not in PREPARED
        and not each["event"].startswith(("digest-sign", "admin-access"))
    ]

    assert found, finished
    assert {each["details"].get("reason") for each in found} == {WHY}, found


def _records() -> list[dict[str, Any]]:
    with closing(open_ledger(os.environ["DATABASE_URL"])) as store:
        seal(store)
        return [each.record.fields for each in store.sealed(0, 1000)]
