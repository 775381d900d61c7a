"""
*Add a network, a token or a tenant*: one network of each kind, from URL to refund.

Each is anvil with a chain id of its own, and shows its kind by what a node shows.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from signal import SIGTERM

import pytest

from api.auth.dev_tokens import mint
from dev import stablecoin
from dev.anvil import ROOT, find_anvil
from dev.chain import LocalChain
from dev.rpc import RPC
from dev.stack import Stack, exports, is_ready, running_stack
from signer.chain.chain import OP_STACK_ORACLE
from signer.config.networks import KINDS, load_networks
from signer.config.settings import Settings
from tests.e2e.console import Console, Guide
from tests.e2e.gateway import RECIPIENT, Gateway
from tests.support.forked_processes import ForkedHotWallet, command_for_shells
from tests.support.waiting import eventually


PAGE = ROOT / "docs" / "how-to" / "add-a-network.md"

CHAIN_IDS = {
    "ethereum": 9001,  # No preset has it.
    "op-stack": 9002,
    "arbitrum": 421614,
    "polygon": 137,
    "instant": 43114,
    "arc": 5042002,
    "tempo": 42431,
}
"""A chain of each kind; the preset of its chain id has the kind of the last five."""

_PAYS_GAS = ("arc", "tempo")
_ONE = "0x60015f5260205ff3"
"""A contract that returns 1: what a rollup asks for the data of a transaction."""

_DEPTH = 70
"""More blocks than anvil needs to call one finalized."""


@dataclass(frozen=True)
class Added:
    """A chain that gets its entry: its token is *symbol*."""

    chain: LocalChain
    kind: str
    token: str
    symbol: str

    @property
    def form(self) -> str | None:
        """How its gas is paid, for ``dev.stablecoin``."""
        return self.kind if self.kind in _PAYS_GAS else None


@pytest.fixture
def added() -> Iterator[Mapping[str, Added]]:
    """A chain of each kind of network, with blocks, a token, and nothing else."""
    with ExitStack() as stack:
        yield {kind: stack.enter_context(_chain(kind)) for kind in CHAIN_IDS}


@contextmanager
def _chain(kind: str) -> Iterator[Added]:
    form = kind if kind in _PAYS_GAS else None
    anvil = find_anvil(ROOT)
    with LocalChain(anvil, chain_id=CHAIN_IDS[kind], kind=form) as chain:
        token = stablecoin.deploy_on(chain.url, form)
        if kind == "op-stack":
            RPC(chain.url)("anvil_setCode", OP_STACK_ORACLE, _ONE)
        chain.mine(_DEPTH)
        symbol = {"arc": "USDC", "tempo": "AlphaUSD"}.get(kind, "TUSD")
        yield Added(chain, kind, token, symbol)


def test_a_network_of_each_kind_is_added(
    added: Mapping[str, Added], tmp_path: Path
) -> None:
    """From the URL of a node and one approval to a refund, by the page's commands."""
    assert added.keys() == KINDS.keys() - {"local"}
    with running_stack(
        tmp_path / "home",
        program=ForkedHotWallet(),
        settings={"REQUIRE_APPROVALS": "true"},
    ) as stack:
        _write_entries(stack, added)
        for each in added.values():
            stablecoin.fund(
                each.chain.url, stack.address, token=each.token, kind=each.form
            )
            each.chain.mine_every(0)
        assert _failures(stack) == ["limits"]
        _approve(stack)
        for name in ("worker", "serve"):
            stack.processes[name].send_signal(SIGTERM)
            stack.processes[name].wait(30)
        (stack.home / "networks.new.toml").replace(stack.home / "networks.toml")
        stack.command("worker", "--once")
        with stack.service("serve", log="serve-2"):
            assert eventually(lambda: is_ready(stack.url), 60)
            _pay(stack, added)


def _write_entries(stack: Stack, added: Mapping[str, Added]) -> None:
    """Follow the page for each network, to a file beside the one in force."""
    with _shell(stack) as console:
        for kind, each in added.items():
            (stack.home / "node.url").write_text(each.chain.url, encoding="utf-8")
            console.run(f"export TOKEN={each.token}")
            guide = Guide(
                console,
                PAGE,
                {"hotwallet config check networks.new.toml; ": "has the page's URLs"},
                {
                    "loaded .env\n": "",
                    "--name other": f"--name {kind}",
                    "other.toml": f"{kind}.toml",
                },
            )
            if kind == "ethereum":
                guide.follow("cp networks.toml")
            guide.follow("hotwallet network probe")
            guide.follow("sed -n '/^\\[networks/,$p' other.toml")
        guide.follow("hotwallet config check")
    written = load_networks(stack.home / "networks.new.toml")
    assert [written[kind].kind for kind in added] == [*added]


def _failures(stack: Stack) -> list[str]:
    """Return what fails for the doctor with the new file."""
    new = {"NETWORKS_FILE": str(stack.home / "networks.new.toml")}
    said = stack.program.run(["doctor", "--json"], {**stack.environ, **new}).stdout
    return [
        each["name"] for each in json.loads(said)["rungs"] if each["state"] == "failed"
    ]


def _approve(stack: Stack) -> None:
    new = {"NETWORKS_FILE": str(stack.home / "networks.new.toml")}
    asked = _as(stack, "alice", "limits", "raise", "--reason", "new networks", **new)
    digest = asked.partition("approvals approve ")[2][:16]
    _as(stack, "bob", "approvals", "approve", digest, "--reason", "why", "--yes")


def _as(stack: Stack, subject: str, *command: str, **environ: str) -> str:
    """Run ``hotwallet`` as an administrator; return what it says."""
    token = stack.home / subject
    token.touch(mode=0o600)
    scopes = ("limits:raise", "approvals:decide")
    settings = Settings.from_env(stack.environ)
    token.write_text(
        mint(settings, subject=subject, roles=["admin"], scopes=scopes), "utf-8"
    )
    environ = {**stack.environ, **environ, "OPERATOR_TOKEN_FILE": str(token)}
    finished = stack.program.run(command, environ)
    return finished.stdout + finished.stderr


def _pay(stack: Stack, added: Mapping[str, Added]) -> None:
    gateway = Gateway.of(stack)
    before = {kind: _received(each) for kind, each in added.items()}
    refunds = {}
    for kind, each in added.items():
        status, _, body = gateway.post(network=kind, token=each.symbol)
        assert status == 201, body
        refunds[kind] = body["id"]

    def reach(status: str) -> bool:
        """Let a worker make a pass, and return whether all refunds have *status*."""
        stack.command("worker", "--once")
        return {gateway.get(each)["status"] for each in refunds.values()} == {status}

    # Between two passes: a worker that sees the first of many blocks waits for the last
    # as long as they usually take.
    assert eventually(lambda: reach("broadcast"), 120)
    for each in added.values():
        each.chain.mine(_DEPTH)
    assert eventually(lambda: reach("confirmed"), 120, pause=1)
    for kind, each in added.items():
        assert _received(each) - before[kind] == 1_250_000


def _received(each: Added) -> int:
    return stablecoin.balance_of(each.chain.url, each.token, RECIPIENT)


@contextmanager
def _shell(stack: Stack) -> Iterator[Console]:
    console = Console(stack.home, {})
    with command_for_shells() as commands:
        try:
            console.run(exports(stack.environ))
            console.run(f"PATH={commands}:$PATH")
            yield console
        finally:
            console.close()
