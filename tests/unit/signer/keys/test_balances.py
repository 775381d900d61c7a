"""Balances are read on all networks concurrently, within a time limit."""

import pytest

from backends.json_rpc import JSONRPCChain
from dev import stablecoin as coin
from signer.chain.chain import Chain
from signer.chain.erc20 import encode_balance_of
from signer.config.networks import Network
from signer.deadline import Deadlines
from signer.errors import ChainUnavailableError
from signer.keys.balances import AddressBalance, BalanceReader
from signer.ports.chain import Call, ChainClient
from tests.fixtures.chain import DevChain
from tests.fixtures.scripted_chain import ScriptedChain
from tests.support.refunds import CUSTOMER, NETWORK, altered
from tests.unit.signer.keys.conftest import Hang


NEW = "0x000000000000000000000000000000000000dEaD"


def _reader(**clients: ChainClient) -> BalanceReader:
    chains = {name: Chain(NETWORK, client) for name, client in clients.items()}
    return BalanceReader(chains, Deadlines())


def test_balances_on_anvil(fresh_anvil: DevChain) -> None:
    """Gas and tokens are in whole units, and the nonce is the next one."""
    network = Network.model_validate(
        {
            "chain_id": 31337,
            "rpc_urls": [fresh_anvil.url],
            "tokens": {
                "TUSD": {
                    "address": fresh_anvil.token,
                    "decimals": 6,
                    "max_amount": "1000",
                }
            },
        }
    )
    client = JSONRPCChain([fresh_anvil.url], timeout=10, chain_id=31337)
    reader = BalanceReader({"local": Chain(network, client)}, Deadlines())
    (before,) = reader(NEW)
    coin.fund(fresh_anvil.url, NEW, token=fresh_anvil.token)
    (after,) = reader(NEW)

    assert before.nonce == after.nonce == 0
    assert (before.is_funded, after.is_funded) == (False, True)
    assert float(after.gas or 0) > 0
    assert float(after.tokens["TUSD"]) > 0
    assert list(after.warnings()) == []
    assert list(before.warnings()) == [
        "local: the new address has no coin for gas",
        "local: the new address holds no TUSD",
    ]


def test_tokens_are_those_of_the_vault() -> None:
    """A new key needs coin only; the address of the tokens stays the same."""
    vault = CUSTOMER

    def call(call: Call) -> bytes:
        amount = 7 if call.data == encode_balance_of(vault) else 0
        return amount.to_bytes(32, "big")

    network = NETWORK.model_copy(update={"vault": vault})
    client = altered(_funded(), call=call)
    reader = BalanceReader({"one": Chain(network, client)}, Deadlines())
    (found,) = reader(NEW)

    assert found.is_funded
    assert found.tokens == {"TUSD": "0.000007"}
    empty = AddressBalance("one", "1", {"TUSD": "0.0"}, 0, vault=vault)
    assert [*empty.warnings()] == [f"one: the vault {vault} holds no TUSD"]
    assert empty.is_funded  # A key is replaced also while there is nothing to pay.


@pytest.mark.parametrize(
    ("holding", "funded", "words"),
    [
        (AddressBalance("n", "1.5", {"T": "0.01"}, 0), True, []),
        (AddressBalance("n", "1.5", {}, 0), True, []),
        (AddressBalance("n", "0", {"T": "1"}, 0), False, ["no coin"]),
        (AddressBalance("n", "0.00", {"T": "1"}, 0), False, ["no coin"]),
        (
            AddressBalance("n", "1", {"T": "0.000000", "U": "2"}, 0),
            False,
            ["holds no T"],
        ),
        (AddressBalance("n", "10", {"T": "100"}, 3), True, ["has sent 3 transactions"]),
        (
            AddressBalance("n", error="chain-unavailable"),
            False,
            ["(chain-unavailable)"],
        ),
        (AddressBalance("n"), False, ["no coin"]),
    ],
)
def test_warnings(holding: AddressBalance, *, funded: bool, words: list[str]) -> None:
    """O3: there is one warning for everything that would delay refunds."""
    warnings = list(holding.warnings())

    assert holding.is_funded is funded
    assert len(warnings) == len(words)
    for warning, word in zip(warnings, words, strict=True):
        assert warning.startswith("n: ")
        assert word in warning


def test_unavailable_network_has_an_error_code() -> None:
    chain = _funded()
    one, two = _reader(
        one=chain, two=altered(chain, balance=ChainUnavailableError("no node answers"))
    )(CUSTOMER)

    assert one == AddressBalance("one", "1.000000000000000000", {"TUSD": "7.000000"}, 0)
    assert two == AddressBalance("two", error="chain-unavailable")


def test_hanging_networks_share_one_time_limit(hang: Hang) -> None:
    hanging = altered(_funded(), balance=hang)
    found = _reader(a=hanging, b=hanging, c=hanging, d=_funded())(CUSTOMER)

    assert [each.error for each in found[:3]] == ["chain-unavailable"] * 3
    assert 3 >= hang.waits[0] > hang.waits[1] > hang.waits[2]


def _funded() -> ChainClient:
    return altered(
        ScriptedChain(),
        balance=lambda address: 10**18,
        call=lambda call: (7 * 10**6).to_bytes(32, "big"),
        pending_count=lambda address: 0,
    )
