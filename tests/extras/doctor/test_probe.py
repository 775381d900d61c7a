"""``hotwallet network probe`` on real nodes, and what doctor compares with it."""

import json
from pathlib import Path

import pytest
from eth_abi.abi import encode

from backends.json_rpc.probe import Probe, find_differences, guess_kind
from signer.chain.erc20 import DECIMALS
from signer.config.networks import Network, load_networks
from tests.api.commands import Run
from tests.api.conftest import hotwallet
from tests.fixtures.chain import ON_GETH, ON_HARDHAT, DevChain
from tests.fixtures.fake_node import FakeNode
from tests.fixtures.replies import Computed, Error, Result
from tests.support.refunds import NETWORK


__all__ = ["hotwallet"]

FOUND = Probe(
    chain_id=31337,
    client="a node",
    head=1000,
    block_seconds=12.0,
    has_base_fee=True,
    price=10**9,
    safe=None,
    finalized=None,
    has_pending=True,
    batch=50,
    block_receipts=True,
    simulate=True,
    is_op_stack=False,
)


@pytest.mark.parametrize("node", ["fresh_anvil", ON_GETH, ON_HARDHAT], indirect=True)
def test_the_entry_is_a_network(node: DevChain, hotwallet: Run, tmp_path: Path) -> None:
    """With what the node shows of itself and of the token; the file has the URL."""
    out = tmp_path / "draft.toml"
    asked = ("network", "probe", node.url, "--token", node.token)
    node.mine(2)

    finished = hotwallet(*asked, "--name", "local", "--out", str(out))

    assert (finished.status, finished.err) == (0, "")
    assert out.stat().st_mode & 0o777 == 0o600
    found = load_networks(out)["local"]
    assert found.rpc_urls[0].get_secret_value() == node.url
    assert (found.chain_id, found.kind, found.fees) == (31337, "local", "eip-1559")
    assert (found.tokens["TUSD"].address, found.tokens["TUSD"].decimals) == (
        node.token,
        6,
    )
    document = json.loads(hotwallet(*asked, "--json").out)
    client = document["client"].split("/")[0].lower()
    assert client in {"anvil", "geth", "hardhatnetwork"}
    assert document["block_receipts"] is (client != "hardhatnetwork")
    assert document["simulate"] is (client != "hardhatnetwork")
    assert document["batch"] == 50
    (token,) = document["tokens"]
    assert (token["symbol"], token["decimals"]) == ("TUSD", 6)
    printed = hotwallet(*asked).out
    assert node.url not in printed
    assert "[networks.chain-31337.tokens.TUSD]" in printed

    again = hotwallet(*asked, "--out", str(out))
    assert again.status == 1
    assert "draft.toml exists: choose another name" in again.err


def test_a_node_with_limits(
    anvil: DevChain, fault_proxy: FakeNode, hotwallet: Run
) -> None:
    """The keys are what it takes: no batches, and no pending state."""
    fault_proxy.script("eth_chainId", Result("0x539"))
    fault_proxy.script("batch", Error(-32600, "batch too large"))
    fault_proxy.script("eth_getTransactionCount", Error(-32000, "no pending state"))

    finished = hotwallet("network", "probe", fault_proxy.url, "--token", anvil.token)

    assert (finished.status, finished.err) == (0, "")
    assert "chain_id = 1337\n" in finished.out
    assert "rpc_batch = 1\n" in finished.out
    assert 'pending = "none"\n' in finished.out


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--token", "0x12"], "0x12 is no address"),
        (["--token", f"0x{'00' * 19}09"], "is no token of chain 31337: compare both"),
        ([], "of chain 31337 is unknown: add --token ADDRESS"),
    ],
)
def test_what_is_missing_is_named(
    anvil: DevChain, hotwallet: Run, options: list[str], problem: str
) -> None:
    finished = hotwallet("network", "probe", anvil.url, *options)

    assert finished.status == 1
    assert problem in " ".join(finished.err.split())


@pytest.mark.parametrize(
    ("symbol", "decimals", "shown", "problem"),
    [
        ("USD₮0", 6, 'tokens."USD₮0"]', ""),
        ('A]\n[networks.b"', 6, "", "is no token of chain"),
        ('A"]#[networks.b', 6, r'tokens."A\"]#[networks.b"]', ""),
        ("USDC", 2**255, "", "shows what no network can have"),
    ],
)
def test_a_token_writes_no_keys_of_the_file(
    anvil: DevChain,
    fault_proxy: FakeNode,
    hotwallet: Run,
    symbol: str,
    decimals: int,
    shown: str,
    problem: str,
) -> None:
    """Its contract chooses its symbol."""
    answers = {
        f"0x{DECIMALS.hex()}": encode(["uint256"], [decimals]),
        "0x95d89b41": encode(["string"], [symbol]),
    }
    reply = Computed(lambda asked: f"0x{answers.get(asked[0]['data'], b'').hex()}")
    fault_proxy.script("eth_call", reply)

    finished = hotwallet("network", "probe", fault_proxy.url, "--token", anvil.token)

    assert shown in finished.out
    assert problem in " ".join(finished.err.split())
    assert finished.status == bool(problem)
    assert "Traceback" not in finished.err
    assert "\n[networks.b" not in finished.out


def test_a_malformed_block(fault_proxy: FakeNode, hotwallet: Run) -> None:
    block = {"number": "0x9", "hash": f"0x{'11' * 32}", "baseFeePerGas": "0x1"}
    fault_proxy.script("eth_getBlockByNumber", Result(block))

    finished = hotwallet("network", "probe", fault_proxy.url)

    assert finished.status == 1
    assert "the node gives no usable answer" in " ".join(finished.err.split())


def test_a_url_of_no_node(hotwallet: Run) -> None:
    """The message has what to do next, and no URL."""
    finished = hotwallet("network", "probe", "http://127.0.0.1:9/key")

    assert finished.status == 1
    assert "check URL and API key" in " ".join(finished.err.split())
    assert "127.0.0.1" not in finished.err


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, "local"),
        ({"chain_id": 9}, None),
        ({"chain_id": 9, "is_op_stack": True}, "op-stack"),
        ({"chain_id": 9, "finalized": 1000}, "instant"),
        ({"chain_id": 9, "finalized": 936}, "ethereum"),
    ],
)
def test_the_nearest_kind(changes: dict[str, object], kind: str | None) -> None:
    assert guess_kind(Probe(**{**_fields(), **changes})) == kind  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("keys", "changes", "difference"),
    [
        ({}, {}, None),
        ({"fees": "eip-1559"}, {"has_base_fee": False}, "fees is eip-1559"),
        ({"finality": "safe"}, {}, "finality is safe, and the node names no such"),
        ({"finality": "safe"}, {"safe": 900}, None),
        ({}, {"has_pending": False}, "pending is pool"),
        ({"pending": "none"}, {"has_pending": False}, None),
        ({}, {"batch": 10}, "rpc_batch is 50, and the node takes 10"),
        ({"block_seconds": 2.0}, {}, "block_seconds is 2, and blocks take 12"),
        ({"block_seconds": 13.0}, {}, None),
        ({}, {"is_op_stack": True}, "data_fee is not set, and the chain has one"),
        ({"data_fee": "op-stack"}, {}, "data_fee is op-stack, and the chain does not"),
    ],
)
def test_what_doctor_compares(
    keys: dict[str, object], changes: dict[str, object], difference: str | None
) -> None:
    network: Network = NETWORK.model_copy(update=keys)
    shown = Probe(**{**_fields(), **changes})  # type: ignore[arg-type]

    found = list(find_differences(network, shown))

    assert len(found) == (difference is not None)
    assert not difference or found[0].startswith(difference)


def _fields() -> dict[str, object]:
    return {name: getattr(FOUND, name) for name in FOUND.__slots__}
