"""A stolen token of a merchant, within every limit of one refund."""

from itertools import count

import pytest
from falcon.testing import TestClient

from api.http.app import create_app
from backends.sql import SQLStore
from signer.chain.chain import Chain
from signer.config.networks import AutomaticStopRules as Rules
from signer.refunds.automatic_stop import AutomaticStop
from tests.api.administrators import authorized
from tests.api.service import BODY, NETWORKS, Pace, build_container
from tests.api.support import SettableClock, post
from tests.fixtures.scripted_chain import ScriptedChain


WHY = {"reason": "refunds that no customer asked for"}


class Thief:
    """Requests refunds one after the other, while a worker runs."""

    def __init__(self, store: SQLStore, rules: Rules) -> None:
        self.clock = clock = SettableClock()
        self.node = ScriptedChain()
        network = NETWORKS["local"].model_copy(update={"automatic_stop": rules})
        container = build_container(store, clock, client=self.node, pace=Pace())
        container.networks = {"local": network}
        container.chains = {"local": Chain(network, self.node)}
        self.worker = container.worker
        # As the worker's own, by the test's clock.
        self.rules = AutomaticStop(
            store,
            container.holds,
            container.networks,
            clock,
            alarm=container.alerts,
            timer=lambda: clock().timestamp(),
        )
        self.requests = count()
        self.client = TestClient(create_app(container))

    def steal(self, number: int) -> list[object]:
        """Request *number* refunds, one per second; return the status of each."""
        statuses: list[object] = []
        for _ in range(number):
            self.rules.check()
            self.worker.work()
            body = {**BODY, "payment_session_id": f"stolen-{next(self.requests)}"}
            statuses.append(post(self.client, body).json["status"])
            self.clock.advance(1)
        return statuses


@pytest.fixture
def thief(sqlite_store: SQLStore) -> Thief:
    """A thief on a network with at most ten refunds in ten minutes."""
    return Thief(sqlite_store, Rules(max_refunds=10))


def test_many_small_refunds_block_the_tenant(thief: Thief) -> None:
    """The thief gets what the rule allows, and one refund more."""
    statuses = thief.steal(40)

    assert statuses.count("broadcast") == len(set(thief.node.broadcasts)) == 11
    assert statuses[11:] == [403] * 29


def test_an_administrator_stops_the_thief(sqlite_store: SQLStore) -> None:
    """One request suffices, and what is queued is not paid afterwards."""
    thief = Thief(sqlite_store, Rules())
    thief.steal(3)
    stopped = thief.client.simulate_post(
        "/v1/admin/stop", json=WHY, headers=authorized(scope="signing:stop")
    )
    statuses = thief.steal(5)
    for _ in range(10):
        thief.clock.advance(60)
        thief.worker.work()

    assert stopped.status_code == 200
    assert statuses == ["queued"] * 5
    assert len(set(thief.node.broadcasts)) == 3
