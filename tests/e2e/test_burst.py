"""Bursts on geth with a block every 12 seconds: the service as processes."""

import json
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dev import stablecoin as coin
from signer.config.settings import Settings
from tests.crash.read_chain import read_transfers
from tests.crash.read_store import read_rows, reading
from tests.e2e.dependencies import KMSProcess, prepared_networks, service_environ
from tests.e2e.running_service import RunningService
from tests.e2e.timed_client import TimedClient
from tests.fixtures.fake_node import FakeNode
from tests.fixtures.geth import BLOCK_SECONDS, SLOTS, GethChain, running_geth
from tests.support.invariants import FINAL
from tests.support.vault import deploy_vault
from tests.support.waiting import eventually


pytestmark = [pytest.mark.nodes, pytest.mark.soak]

BURST = 2_000
POOL = 256
AMOUNT = 1_250_000
CONFIRMATIONS = 3
BATCH = 100


class BroadcastRecorder(FakeNode):
    """A proxy of a node that records the broadcasts which the node refused."""

    def __init__(self, upstream: str) -> None:
        super().__init__(upstream)
        self.refused = Counter[str]()

    def forward(self, body: bytes) -> bytes:
        answer = super().forward(body)
        if json.loads(body)["method"] == "eth_sendRawTransaction":
            error = json.loads(answer).get("error")
            if error is not None and error["message"] != "already known":
                self.refused[error["message"]] += 1
        return answer


@dataclass
class Burst:
    """A service on geth, with a block every 12 seconds; *payer* has the tokens."""

    service: RunningService
    client: TimedClient
    node: BroadcastRecorder
    chain: GethChain
    wallet: str
    payer: str
    ledger: str

    def statuses(self) -> Counter[str]:
        """Return how many refunds have each status."""
        with reading(self.ledger) as store:
            return Counter(row.status for row in read_rows(store))

    def is_over(self) -> bool:
        return set(self.statuses()) <= FINAL

    def head(self) -> int:
        return int(self.chain.rpc("eth_blockNumber"), 16)

    def sent_in(self, number: int) -> int:
        """Return how many transactions of the wallet the block has."""
        block: dict[str, Any] = self.chain.rpc(
            "eth_getBlockByNumber", hex(number), True
        )
        return [each["from"] for each in block["transactions"]].count(self.wallet)


@pytest.fixture(params=[0, BATCH], ids=["wallet", "vault"])
def burst(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    aws_environment: None,
    empty_postgresql_url: str,
) -> Iterator[Burst]:
    """A service whose wallet or vault pays, on geth with a pool of 256."""
    with ExitStack() as stack:
        kms = stack.enter_context(KMSProcess(tmp_path))
        node = stack.enter_context(running_geth(f"--txpool.globalslots={POOL}"))
        proxy = stack.enter_context(BroadcastRecorder(node.url))
        networks, token = prepared_networks(
            tmp_path,
            node.url,
            kms.address,
            node_url=proxy.url,
            confirmations=CONFIRMATIONS,
            block_seconds=BLOCK_SECONDS,
            max_in_flight=SLOTS,
        )
        payer = kms.address
        if request.param:
            vault = deploy_vault(
                node.url,
                token,
                caps=(AMOUNT, BURST * AMOUNT),
                funds=BURST * AMOUNT,
                operators=[kms.address],
            )
            payer = vault.address
            lines = (
                f'vault = "{payer}"\nmax_batch = {request.param}\n\n[networks.local.t'
            )
            text = networks.read_text("utf-8").replace("\n[networks.local.t", lines, 1)
            networks.write_text(text, "utf-8")
        environ = service_environ(
            tmp_path, networks, **kms.settings, DATABASE_URL=empty_postgresql_url
        )
        node.mine_every(BLOCK_SECONDS)
        service = stack.enter_context(RunningService(environ))
        client = TimedClient(service.port, Settings.from_env(environ), kms.other_key)
        chain = GethChain(node.url, coin.issuer(node.url), token, node)
        yield Burst(
            service,
            client,
            proxy,
            chain,
            kms.address.lower(),
            payer,
            empty_postgresql_url,
        )


def test_a_burst_fills_every_block(burst: Burst) -> None:
    """Each refund is paid once, no broadcast is refused, and no block is left out."""
    first = burst.head() + 1
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: burst.client.submit(), range(BURST)))
    assert {each.status for each in answers} == {201}
    accepted = burst.head() - first + 1

    most = (BURST / SLOTS + CONFIRMATIONS + 10) * BLOCK_SECONDS
    assert eventually(burst.is_over, most, pause=5), burst.statuses()

    sent = [burst.sent_in(number) for number in range(first, burst.head() + 1)]
    with_ours = [place for place, count in enumerate(sent) if count]
    sent = sent[with_ours[0] : with_ours[-1] + 1]
    calls = Counter(each.method for each in burst.node.requests)
    figures = {"blocks of requests": accepted, "sent": sent, "calls": calls}
    sys.stdout.write(f"{figures}; refused: {burst.node.refused}\n")
    assert burst.statuses() == {"confirmed": BURST}
    transfers = read_transfers(burst.chain.rpc, burst.payer)
    wanted = {each.body["recipient"].lower() for each in burst.client.submissions}
    assert Counter(each.recipient for each in transfers) == dict.fromkeys(wanted, 1)
    assert 0 not in sent, sent
    assert not burst.node.refused
