"""A token or a payee that tries to end the refunds of others, on a real node."""

import pytest

from backends.json_rpc import JSONRPCChain
from backends.sql import SQLStore
from dev import stablecoin as coin
from dev.chain import CHAIN_ID
from signer.config.networks import Network
from signer.model.refund import Status
from tests.fixtures.chain import DevChain
from tests.fixtures.fake_node import FakeNode
from tests.support.refunds import World


TOKEN = "0x" + "70" * 20
HOSTILE = "0x" + "66" * 20

_SUCCEED = "600019600052602060" + "00f3"  # Return a large number, also as a balance.
_PAYS_HOSTILE = f"60043573{HOSTILE[2:]}14"
_STORE_BLOCK = "43600055"
_IS_STORED_BLOCK = "600054" + "4314"


def _branch(condition: str, then: str, otherwise: str = _SUCCEED) -> str:
    """Return EVM code that runs *then* if *condition* holds, or else *otherwise*."""
    target = len(bytes.fromhex(condition + otherwise)) + 3
    return f"0x{condition}60{target:02x}57{otherwise}5b{then}"


BURNS_GAS = _branch(_PAYS_HOSTILE, "fe")
RETURNS_MUCH = _branch(_PAYS_HOSTILE, "61ffff6000f3")
PAYS_ONCE_IN_A_BLOCK = _branch(_IS_STORED_BLOCK, "60006000fd", _STORE_BLOCK + _SUCCEED)


@pytest.mark.parametrize(
    ("code", "hostile_ends"),
    [
        (BURNS_GAS, Status.QUEUED),
        (RETURNS_MUCH, Status.BROADCAST),
        (PAYS_ONCE_IN_A_BLOCK, Status.BROADCAST),
    ],
    ids=["burns-gas", "returns-much", "pays-once-in-a-block"],
)
def test_no_refund_is_refused_because_of_another(
    fresh_anvil: DevChain, sqlite_store: SQLStore, code: str, hostile_ends: Status
) -> None:
    """
    All are simulated in one block, where a hostile one may make others fail.

    Those are estimated alone, so only what a refund does by itself can hold it up.
    """
    fresh_anvil.rpc("anvil_setCode", TOKEN, code)
    entry = {"address": TOKEN, "decimals": 6, "max_amount": "1000"}
    with FakeNode(fresh_anvil.url) as node:
        network = Network.model_validate(
            {"chain_id": CHAIN_ID, "rpc_urls": [node.url], "tokens": {"TUSD": entry}}
        )
        client = JSONRPCChain([node.url], timeout=10, chain_id=CHAIN_ID)
        world = World(sqlite_store, client=client, network=network)
        coin.fund(fresh_anvil.url, world.signer.address)
        fresh_anvil.mine_on_request()
        worker = world.worker
        payees = [f"0x{number:040x}" for number in range(1 << 20, (1 << 20) + 11)]
        payees.insert(5, HOSTILE)
        refunds = [world.accepted(recipient=payee) for payee in payees]
        worker.work()
        assert len(node.calls("eth_simulateV1")) == 1

    ends = dict(zip(payees, world.statuses(refunds), strict=True))
    assert ends.pop(HOSTILE) is hostile_ends
    assert set(ends.values()) == {Status.BROADCAST}
