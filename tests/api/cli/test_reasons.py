"""The reason that an operator gives is in the audit records of each command."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import click
import pytest

from api.actions.catalogue import ACTIONS
from api.cli.__main__ import cli
from signer.ports.key_backend import KeyId
from tests.api.commands import Run
from tests.support.ledgers import copy_ledger, open_ledger, seal
from tests.support.refunds import World
from tests.support.restores import keep_log, requested, write_log


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
