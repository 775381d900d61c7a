"""A treasury that lies, and what others gain from the top-ups of a wallet."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from pydantic import SecretStr
from sqlalchemy import Connection
from structlog.testing import capture_logs

from api.extras.top_ups.top_ups import TopUps
from api.extras.top_ups.treasury import MAX_BYTES, Treasury, TreasuryClient
from backends.sql import SQLStore
from signer.alerts import Alerts
from signer.errors import RowNotAuthenticError
from signer.model.refund import new_refund_id
from signer.model.worker_row import WorkerRow
from signer.ports.meter import NO_METER
from tests.extras.top_ups.treasury import LedgerTreasury
from tests.fixtures.plain_server import Reply, Server, reply_server
from tests.fixtures.scripted_chain import CHAIN_ID, TOKEN
from tests.support.ledgers import open_ledger
from tests.support.refunds import SECOND, FakeClock, World


UNIT = 10**6
DAY = 24


@pytest.fixture
def world(sqlite_url: str) -> Iterator[World]:
    """A shop that has no tokens; its key signs."""
    store = open_ledger(sqlite_url)
    world = World(store, clock=FakeClock())
    world.change_token(top_up_below="100", top_up_to="600")
    world.chain.balance_left = 0
    assert world.ring
    yield world
    store.close()


def _look(world: World, treasury: Treasury) -> Callable[[], list[str]]:
    """Return what lets one worker look, and returns the alerts' problems."""
    top_ups = TopUps(
        world.store,
        world.chains,
        treasury,
        Alerts(world.store, clock=world.clock),
        name="a",
        clock=world.clock,
        meter=NO_METER,
    )

    def look() -> list[str]:
        now = world.clock()
        world.store.prove(world.signer.address, now)
        world.store.record_pass(WorkerRow("a", now, now))
        with capture_logs() as logs:
            top_ups.look()
        return [each["problem"] for each in logs if each["event"] == "alert"]

    return look


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "treasury.token"
    path.write_text("token")
    path.chmod(0o600)
    return path


@pytest.fixture
def server() -> Iterator[Server]:
    with reply_server((500, {}, b"")) as server:
        yield server


def _lies(world: World, **refund: Any) -> Reply:
    """Return one answer to each question: the token is known, and *refund* exists."""
    token = {"network": "x", "chain_id": CHAIN_ID, "token": "Y", "address": TOKEN}
    shown = {
        "id": new_refund_id(world.clock()),
        "status": "confirmed",
        "created_at": "2000-01-01T00:00:00Z",
        "block_number": 0,
        **refund,
    }
    return (
        200,
        {},
        json.dumps({"tokens": [token], "refunds": [shown], **shown}).encode(),
    )


@pytest.mark.parametrize(
    ("lie", "most"),
    [
        ({}, DAY),
        ({"created_at": "9999-12-31T23:59:59Z"}, 0),
        ({"status": "queued", "created_at": "9999-12-31T23:59:59Z"}, 0),
        ({"status": "failed"}, DAY),
        ({"block_number": 10**30}, 0),
    ],
    ids=["paid long ago", "in the future", "open", "failed", "a later block"],
)
def test_a_treasury_that_lies_is_asked_once_an_hour(
    world: World, server: Server, token_file: Path, lie: dict[str, Any], most: int
) -> None:
    """For a target that this service computes; an open or later one stops it."""
    client = TreasuryClient(SecretStr(server.url), token_file, allow_http=True)
    look = _look(world, client)
    for _ in range(DAY * 4):
        server.reply = _lies(world, **lie)
        look()
        world.clock.advance(minutes=15)

    bodies = [
        json.loads(body) for method, _, _, body in server.asked if method == "POST"
    ]
    assert len(bodies) == most
    assert {each["recipient"] for each in bodies} <= {world.signer.address}
    assert {each["amount"] for each in bodies} <= {"600.000000"}


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        ((200, {}, b" " * (MAX_BYTES + 1)), "too-large"),
        ((200, {}, b"[" * 100_000), "answer-invalid"),
        ((302, {"Location": "http://127.0.0.1:1/"}, b""), "status-302"),
        ((422, {}, b'{"code": "x\\u001b[31m"}'), "status-422"),
    ],
    ids=["endless", "deep", "redirect", "escape"],
)
def test_a_hostile_answer_is_an_alert(
    world: World, server: Server, token_file: Path, reply: Reply, problem: str
) -> None:
    """With a code of ours; the worker goes on."""
    client = TreasuryClient(SecretStr(server.url), token_file, allow_http=True)
    look = _look(world, client)
    server.reply = reply
    found = [each for _ in range(2) for each in look()]

    assert found == [problem]
    assert re.fullmatch("[a-z0-9-]+", found[0])


def test_a_service_is_no_treasury_of_itself(world: World) -> None:
    """It refuses refunds to its own address."""
    treasury = LedgerTreasury(world)
    look = _look(world, treasury)
    found = [each for _ in range(2) for each in look()]

    assert found == ["invalid-input"]
    assert treasury.top_ups() == []


def test_a_writer_of_the_database_gets_no_top_up(world: World, sqlite_url: str) -> None:
    """A former key, which the writer may have, is not topped up as the active one."""
    other = open_ledger(f"{sqlite_url}.2")
    treasury = LedgerTreasury(World(other, clock=world.clock))
    look = _look(world, treasury)
    world.rotate()
    database = cast("SQLStore", world.store)._database

    def change(connection: Connection) -> None:
        for address, state in (
            (SECOND.address, "draining"),
            (world.signer.address, "active"),
        ):
            connection.exec_driver_sql(
                f"UPDATE keys SET state = '{state}', version = version + 1"
                f" WHERE address = '{address}'"
            )

    database.transaction(change)

    with pytest.raises(RowNotAuthenticError):
        look()
    assert treasury.asked == []
    other.close()
