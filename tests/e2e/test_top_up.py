"""
Two real services on one chain: a shop whose wallet empties, and its treasury.

A relay between them holds an answer back, so that the shop's worker can be killed after
the treasury has accepted its request.
"""

import json
import os
import signal
import sqlite3
import threading
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import urllib3

from api.auth.dev_tokens import provide_signing_key
from dev import stablecoin
from dev.ports import free_port
from dev.stack import (
    NETWORK,
    SYMBOL,
    Stack,
    hotwallet,
    request,
    running_stack,
)
from signer.model.worker_row import STOPPED_AFTER
from tests.e2e.conftest import LONG_CHAINS, chain_options
from tests.e2e.gateway import RECIPIENT, Gateway
from tests.support.forked_processes import ForkedHotWallet
from tests.support.servers import LocalHandler, LocalServer
from tests.support.waiting import eventually


PATIENCE = 120.0
"""Seconds: another worker takes over 20 seconds after a kill."""

TARGET = 500
BELOW = 450

TENANTS = """\
[tenants.shop-wallet]
subjects = ["shop-wallet"]

[tenants.gateway]
subjects = ["developer"]
"""

_GUIDE = Path(__file__).parents[2] / "docs" / "how-to" / "several-wallets.md"


class Relay(LocalServer):
    """
    Forwards requests to the treasury.

    With ``holds_replies``, the answer to a POST never leaves: ``accepted`` is set, and
    the connection stays open until the client closes it.  ``keys`` are the idempotency
    keys of all POSTs, and ``lists`` counts the requests for the newest top-up.
    """

    def __init__(self) -> None:
        super().__init__(_Handler)
        self.target = ""
        self.holds_replies = False
        self.accepted = threading.Event()
        self.keys: list[str] = []
        self.lists = 0
        self.pool = urllib3.PoolManager(retries=False)


class _Handler(LocalHandler):
    server: Relay

    def respond(self) -> None:
        body = self.read_body()
        passed = {
            name: value
            for name, value in self.headers.items()
            if name.lower() not in {"host", "content-length", "connection"}
        }
        url = self.server.target + self.path
        answer = self.server.pool.request(
            self.command, url, body=body or None, headers=passed
        )
        if self.command == "POST":
            self.server.keys.append(self.headers["Idempotency-Key"])
            if self.server.holds_replies:
                self.server.accepted.set()
                self.connection.recv(1)
                return
        elif "payment_session_id" in self.path:
            self.server.lists += 1
        self.answer(answer.status, answer.data)


@dataclass
class System:
    """A shop and its treasury."""

    shop: Stack
    treasury: Stack
    relay: Relay

    def refresh_token(self) -> str:
        """Give the shop a new token of the treasury, which lives for five minutes."""
        token = Gateway.of(self.treasury, "shop-wallet").token
        path = Path(self.shop.environ["TREASURY_TOKEN_FILE"])
        draft = path.with_suffix(".new")
        draft.touch(mode=0o600)
        draft.write_text(token)
        draft.rename(path)
        return token

    def ask(self, method: str, path: str, token: str, body: object = None) -> Any:
        """Send a request to the treasury, with the tenant's *token*."""
        headers = {
            "Authorization": f"Bearer {token}",
            **({"Idempotency-Key": "thief-1"} if method == "POST" else {}),
        }
        url = f"{self.treasury.url}/v1{path}"
        return request(method, url, headers=headers, body=body)

    def top_ups(self) -> list[Any]:
        """Return the refunds of the treasury to the shop, newest first."""
        refunds = self.ask("GET", "/refunds", self.refresh_token())[2]["refunds"]
        return [each for each in refunds if each["payment_session_id"] != "stolen"]

    @property
    def balance(self) -> float:
        """What the shop holds, in whole tokens."""
        stack = self.shop
        units = stablecoin.balance_of(stack.chain_url, stack.token, stack.address)
        return units / 10**6


def _environment(home: Path) -> dict[str, str]:
    """Return the shop's settings; they name the same files as those of a stack."""
    inherited = ("PATH", "HOME", "LANG", "TMPDIR", "PKCS11_MODULE")
    return {
        **{name: os.environ[name] for name in inherited if name in os.environ},
        "HOTWALLET_NO_ENV_FILE": "1",
        "APP_ENV": "development",
        "HOTWALLET_HOME": str(home),
        "NETWORKS_FILE": str(home / "networks.toml"),
        "BIND": f"127.0.0.1:{free_port()}",
        "WEB_CONCURRENCY": "1",
        "JWT_AUDIENCE": "shop",
        "JWT_SIGNING_KEY_FILE": str(home / "jwt.pem"),
        "JWT_PUBLIC_KEY_FILE": str(home / "jwt.pub.pem"),
        "TREASURY_TOKEN_FILE": str(home / "treasury.token"),
        "PYTHONUNBUFFERED": "1",
    }


def _answers(url: str) -> bool:
    """Return whether the service answers; it is not ready without a worker."""
    try:
        return request("GET", f"{url}/healthz")[0] == 200
    except OSError:
        return False


def _rule(address: str) -> str:
    """Return the rule of the guide, for the shop's *address*."""
    text = _GUIDE.read_text(encoding="utf-8")
    rule = text.partition("```cedar\n")[2].partition("```")[0]
    assert rule.count(RECIPIENT) == 1
    return rule.replace(RECIPIENT, address)


@pytest.fixture(scope="module", params=LONG_CHAINS)
def system(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[System]:
    """Both services; the shop has little left, and no worker yet."""
    folder = tmp_path_factory.mktemp("top-up")
    home, rules = folder / "shop", folder / "rules"
    for each in (home, rules):
        each.mkdir(mode=0o700)
    environ, program = _environment(home), ForkedHotWallet()
    init = hotwallet(environ, "softhsm", "init", "--json", program=program)
    created = json.loads(init)
    (rules / "shop.cedar").write_text(_rule(created["address"]))
    tenants = folder / "tenants.toml"
    tenants.write_text(TENANTS)
    settings = {
        "WEB_CONCURRENCY": "1",
        "TENANTS_FILE": str(tenants),
        "POLICY_DIR": str(rules),
    }
    with ExitStack() as cleanup:
        relay = cleanup.enter_context(Relay())
        treasury = cleanup.enter_context(
            running_stack(
                folder / "treasury",
                settings=settings,
                program=program,
                **chain_options(request.param),
            )
        )
        relay.target = treasury.url
        environ["TREASURY_URL"] = relay.url
        networks = Path(treasury.environ["NETWORKS_FILE"]).read_text()
        limits = f'top_up_below = "{BELOW}"\ntop_up_to = "{TARGET}"\n'
        (home / "networks.toml").write_text(networks + limits)
        assert SYMBOL in tomllib.loads(networks + limits)["networks"][NETWORK]["tokens"]
        stablecoin.fund(
            treasury.chain_url,
            created["address"],
            token=treasury.token,
            amount=(BELOW - 10) * 10**6,
        )
        shop = Stack(
            home=home,
            environ=environ,
            url=f"http://{environ['BIND']}",
            chain=treasury.chain,
            token=treasury.token,
            address=created["address"],
            key_id=created["key_id"],
            program=program,
        )
        provide_signing_key(home / "jwt.pem", home / "jwt.pub.pem")
        found = System(shop, treasury, relay)
        found.refresh_token()
        cleanup.enter_context(shop.service("serve"))  # It starts beside the workers.
        yield found


def _spend(system: System, amount: int) -> None:
    """Let the shop pay a refund of *amount* whole tokens."""
    system.refresh_token()
    gateway = Gateway.of(system.shop)
    _, _, refund = gateway.post(amount=str(amount))
    gateway.wait(refund["id"], "confirmed", PATIENCE)


def _age_workers(stack: Stack) -> None:
    """Let the time pass after which a killed worker has no turn."""
    with closing(sqlite3.connect(stack.home / "hotwallet.db")) as database, database:
        rows = database.execute("SELECT name, passed_at FROM workers").fetchall()
        for name, at in rows:
            earlier = datetime.fromisoformat(at) - STOPPED_AFTER
            values = (earlier.isoformat(timespec="microseconds"), name)
            database.execute("UPDATE workers SET passed_at = ? WHERE name = ?", values)


def _await_looks(system: System, count: int) -> None:
    """Wait until workers of the shop have asked *count* times for the top-up."""
    wanted = system.relay.lists + count
    system.refresh_token()
    assert eventually(lambda: system.relay.lists >= wanted, PATIENCE, pause=0.5)


def test_a_wallet_that_empties_is_topped_up_once(system: System) -> None:
    """Its worker is killed before the answer arrives; others find the top-up."""
    shop, treasury, relay = system.shop, system.treasury, system.relay
    treasury.command("stop", "--reason", "the top-up stays open")
    relay.holds_replies = True
    with shop.service("worker", log="worker-1") as first:
        assert relay.accepted.wait(PATIENCE)
        os.killpg(first.pid, signal.SIGKILL)
    relay.holds_replies = False
    _age_workers(shop)
    with shop.service("worker", log="worker-2"), shop.service("worker", log="worker-3"):
        _await_looks(system, 1)
        treasury.command("resume", "--reason", "a worker has seen it")
        assert eventually(lambda: system.balance == TARGET, PATIENCE, pause=0.2)
        assert eventually(lambda: _answers(shop.url), PATIENCE)
        _spend(system, TARGET - BELOW + 20)
    # A worker that starts looks soon, and knows of no request.
    with shop.service("worker", log="worker-4"):
        _await_looks(system, 2)  # The first one has ended.

    (top_up,) = system.top_ups()
    assert len(relay.keys) == 1
    assert (top_up["status"], top_up["recipient"]) == ("confirmed", shop.address)
    assert float(top_up["amount"]) == TARGET - BELOW + 10
    assert system.balance == BELOW - 20


def test_the_tenants_token_pays_the_shop_only(system: System) -> None:
    """A thief of it can have no other address paid, and asks nothing of the shop."""
    token = system.refresh_token()
    body = {
        "payment_session_id": "stolen",
        "network": NETWORK,
        "token": SYMBOL,
        "recipient": RECIPIENT,
        "amount": "1",
    }
    _, _, refund = system.ask("POST", "/refunds", token, body)
    path = f"/refunds/{refund['id']}"

    def is_forbidden() -> bool:
        explanation = system.ask("GET", f"{path}/explain", system.refresh_token())[2]
        return "policy-violation" in json.dumps(explanation)

    assert eventually(is_forbidden, PATIENCE, pause=0.2)
    token = system.refresh_token()
    assert system.ask("GET", path, token)[2]["status"] == "queued"
    assert system.ask("POST", f"{path}/cancel", token)[0] in {200, 202}
    assert eventually(lambda: _answers(system.shop.url), PATIENCE)
    at_the_shop, _, _ = request(
        "GET",
        f"{system.shop.url}/v1/refunds",
        headers={"Authorization": f"Bearer {token}"},
    )
    assert at_the_shop == 401
