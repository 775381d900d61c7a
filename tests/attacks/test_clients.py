"""A client on the network, without a token or with a merchant's."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from itertools import count
from pathlib import Path

import pytest
from falcon.testing import TestClient

from api.auth.dev_tokens import mint
from api.http.app import create_app
from backends.sql import SQLStore
from backends.sql.database import Database
from backends.sql.shared_state import SharedTables
from signer.audit.actions import NOT_AUDITED
from signer.chain.chain import Chain
from signer.config.networks import AutomaticStopRules as Rules
from signer.config.settings import Settings
from signer.config.tenants import Tenant, TenantRegistry
from signer.errors import LimitReachedError, PolicyViolationError
from signer.model.refund import Refund, Status
from signer.refunds.automatic_stop import AutomaticStop
from signer.refunds.eth_send_transaction import TransactionSender
from signer.refunds.token_transfer import ContractCall
from tests.api.access_app import Journal, audit_into, build
from tests.api.administrators import authorized
from tests.api.live_server import Server, service_environ
from tests.api.service import BODY, NETWORKS, Pace, build_container
from tests.api.support import NOW, SettableClock, bearer, post
from tests.fixtures.ledger import refund_page
from tests.fixtures.scripted_chain import CHAIN_ID, ScriptedChain
from tests.support.approvals import ruled
from tests.support.ledgers import open_ledger
from tests.support.other_payments import RULES
from tests.support.refunds import ACTOR, CUSTOMER, REQUEST, FakeClock, World
from tests.support.rpc import ScriptedProxy


@pytest.fixture(scope="module")
def environ(
    tmp_path_factory: pytest.TempPathFactory, _sqlite_template: Path
) -> dict[str, str]:
    """Return the environment of a service with its own ledger and keys."""
    return service_environ(tmp_path_factory.mktemp("client"), _sqlite_template)


@pytest.fixture(scope="module")
def server(environ: dict[str, str]) -> Iterator[Server]:
    with Server(environ) as server:
        yield server


@pytest.fixture(scope="module")
def authorization(environ: dict[str, str]) -> str:
    settings = Settings.from_env(environ)
    return f"Authorization: Bearer {mint(settings, subject='m', roles=['merchant'])}"


HOST = "Host: localhost"

KEY = "Idempotency-Key: key-1"

LIST = "GET /v1/refunds HTTP/1.1"


@pytest.mark.parametrize(
    ("line", "headers"),
    [
        ("GET //v1/refunds HTTP/1.1", [HOST]),
        ("GET /v1//refunds HTTP/1.1", [HOST]),
        ("GET /v1%2frefunds HTTP/1.1", [HOST]),
        ("GET /%761/refunds HTTP/1.1", [HOST]),
        ("GET /v1/./refunds HTTP/1.1", [HOST]),
        ("GET /x/../v1/refunds HTTP/1.1", [HOST]),
        ("GET /v1\\refunds HTTP/1.1", [HOST]),
        ("GET /v1/refunds;a=b HTTP/1.1", [HOST]),
        ("GET /v1/refunds#fragment HTTP/1.1", [HOST]),
        ("GET /v1/refunds?limit=1#fragment HTTP/1.1", [HOST]),
        ("GET http://elsewhere/v1/refunds HTTP/1.1", [HOST]),
        (LIST, []),
        (LIST, ["Host:"]),
        (LIST, ["Host: a b"]),
        (LIST, ["Host: a/b"]),
        (LIST, ["Host: user@localhost"]),
        (LIST, ["Host: localhost:port"]),
        (LIST, ["Host: a", "Host: b"]),
        (LIST, [HOST, "X-Request-Id: a", "X-Request-Id: b"]),
    ],
)
def test_ambiguous_head(
    server: Server, authorization: str, line: str, headers: list[str]
) -> None:
    """H13: a request that a proxy could read differently is malformed."""
    head = "\r\n".join([line, *headers, authorization, "", ""])
    answer = server.ask(head.encode())

    assert (answer.status, answer.json["code"]) == (400, "bad-request")
    assert answer.headers["connection"] == "close"


@pytest.mark.parametrize(
    "headers",
    [
        [KEY, "Idempotency-Key: key-2"],
        [KEY, KEY],
        [KEY, "Transfer-Encoding: gzip, chunked"],
        [KEY, "Transfer-Encoding: identity, chunked"],
        [KEY, "Content-Type: application/json"],
        [KEY, "Authorization: Bearer other"],
    ],
)
def test_ambiguous_refund(
    server: Server, authorization: str, headers: list[str]
) -> None:
    """H13: no refund is accepted under a repeated key, type or token."""
    body = str(BODY).replace("'", '"').encode()
    lines = [
        "POST /v1/refunds HTTP/1.1",
        HOST,
        authorization,
        "Content-Type: application/json",
        *headers,
    ]
    if not any("Transfer-Encoding" in header for header in headers):
        lines.append(f"Content-Length: {len(body)}")
        sent = body
    else:
        sent = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    answer = server.ask("\r\n".join([*lines, "", ""]).encode(), sent)
    listed = server.ask(f"{LIST}\r\n{HOST}\r\n{authorization}\r\n\r\n".encode())

    assert (answer.status, answer.json["code"]) == (400, "bad-request")
    assert listed.json["refunds"] == []


@pytest.mark.parametrize("host", ["localhost:8080", "[::1]", "[::1]:80", "10.0.0.1"])
def test_usual_hosts(server: Server, authorization: str, host: str) -> None:
    """A name, an address and a port are accepted, and so are other headers twice."""
    accept = "Accept: text/plain\r\nAccept: application/json\r\nX: 1\r\nX: 2"
    head = f"{LIST}\r\nHost: {host}\r\n{accept}\r\n{authorization}\r\n\r\n"

    assert server.ask(head.encode()).status == 200


def test_probe_without_a_host(server: Server) -> None:
    """HTTP/1.0 does not require the header, and health checks may omit it."""
    assert server.ask(b"GET /healthz HTTP/1.0\r\n\r\n").status == 200


# A stolen token of a merchant, within every limit of one refund.

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


# Many requests that are refused, with no token or with a merchant's.


@pytest.fixture
def journal() -> Journal:
    return Journal()


@pytest.fixture
def client(database_url: str, journal: Journal) -> Iterator[TestClient]:
    """Return a client of the routes, with the real rate limits and database."""
    clock = SettableClock()
    database = Database(database_url, pool_size=4, timeout=5.0)
    database.write(lambda c: c.exec_driver_sql("DELETE FROM rate_counters").rowcount)
    app = build(SharedTables(database), clock, audit=audit_into(journal, clock))
    yield TestClient(app)
    database.close()


def _statuses(
    client: TestClient, path: str, peers: list[str], headers: dict[str, str] | None
) -> list[int]:
    return [
        client.simulate_get(path, headers=headers, remote_addr=peer).status_code
        for peer in peers
    ]


def test_requests_without_a_token_write_few_records(
    client: TestClient, journal: Journal
) -> None:
    """186 administrative calls from three addresses write 121 audit records."""
    peers = [f"203.0.113.{number % 3}" for number in range(186)]
    statuses = _statuses(client, "/rotation", peers, None)
    outcomes = [record.fields["outcome"] for record in journal.records]

    assert set(statuses) == {401, 429}
    assert len(outcomes) == 121
    assert outcomes[-1] == NOT_AUDITED
    assert outcomes.count(NOT_AUDITED) == 1


def test_a_flood_hides_no_refusal_of_an_administrator(
    client: TestClient, journal: Journal
) -> None:
    """Records are counted per subject: a thief's attempts are still audited."""
    peers = [f"203.0.113.{number % 40}" for number in range(200)]
    _statuses(client, "/rotation", peers, None)
    thief = bearer(NOW, sub="mallory", roles=["merchant"], scope="keys:rotate")
    statuses = _statuses(client, "/rotation", ["198.51.100.1"], thief)

    assert statuses == [403]
    assert journal.records[-1].fields["actor"] == "token:mallory"
    assert journal.records[-1].fields["outcome"] == "forbidden"


def test_refusals_elsewhere_hide_no_administrative_ones(
    client: TestClient, journal: Journal
) -> None:
    """A merchant's token that is over its limit on refunds is still audited."""
    peer = "203.0.113.9"
    mallory = bearer(NOW, sub="mallory", roles=["merchant"], scope="refunds:read")
    _statuses(client, "/refunds", [peer] * 70, mallory)
    statuses = _statuses(client, "/rotation", [peer] * 20, mallory)

    assert statuses == [403] * 20
    assert [record.fields["outcome"] for record in journal.records] == [
        "forbidden"
    ] * 20


def test_a_forbidden_subject_locks_no_other_subject_out(client: TestClient) -> None:
    """62 forbidden calls of one merchant leave its address open for the others."""
    peer = "203.0.113.9"
    mallory = bearer(NOW, sub="mallory", roles=["merchant"], scope="refunds:read")
    alice = bearer(NOW, sub="alice", roles=["merchant"], scope="refunds:write")
    refused = _statuses(client, "/refunds", [peer] * 62, mallory)

    assert refused == [403] * 60 + [429] * 2
    assert _statuses(client, "/refunds", [peer], alice) == [200]


# A client whose refunds cost more gas than they pay.

DUST = "0.000001"

GAS_PER_HOUR = 2_000_000


@pytest.fixture
def world(sqlite_url: str) -> Iterator[World]:
    """Return a service on an empty ledger, whose clock is that of the service."""
    clock = FakeClock()
    with closing(open_ledger(sqlite_url, clock=clock)) as store:
        yield World(store, clock=clock)


def _tenants(**limits: int) -> TenantRegistry:
    """Return two tenants, each with *limits* of its own on the network."""
    return TenantRegistry(
        {
            name: Tenant.model_validate(
                {"subjects": [name], "networks": {"local": limits}}
            )
            for name in ("gateway", "other")
        }
    )


def _gas(world: World, refunds: list[Refund]) -> int:
    """Return the gas that the transactions of *refunds* may burn."""
    found = [world.stored(refund) for refund in refunds]
    return sum(refund.gas_limit or 0 for refund in found)


def test_dust_is_refused(world: World) -> None:
    """Refunds below the token's minimum are refused, and none is stored."""
    world.change_token(min_amount="0.01")
    service = world.service

    for number in range(3):
        request = replace(REQUEST, amount=DUST, reference=f"r-{number}")
        with pytest.raises(PolicyViolationError, match=r"at least 0\.01 TUSD"):
            world.submit(request, key=f"key-{number}", service=service)

    assert refund_page(world.store, "gateway").refunds == ()


def test_dust_burns_at_most_the_gas_of_an_hour(world: World) -> None:
    """Of 70 refunds of 0.000001, more than half wait for the next hours."""
    world.network = world.network.model_copy(update={"gas_per_hour": GAS_PER_HOUR})
    refunds = [world.accepted(amount=DUST) for _ in range(70)]

    for _ in range(6):
        world.work(after=timedelta(seconds=31))
    burnt = _gas(world, refunds)
    waiting = [each for each in map(world.stored, refunds) if each.nonce is None]
    world.work(after=timedelta(hours=1))

    assert GAS_PER_HOUR * 0.9 < burnt <= GAS_PER_HOUR
    assert {each.status for each in waiting} == {Status.QUEUED}
    assert {each.moving.blocked_by for each in waiting} == {"limit-reached"}
    assert burnt < _gas(world, refunds) <= 2 * GAS_PER_HOUR


def test_dust_is_bounded_by_default(world: World) -> None:
    """
    A tenant of a tenants file has 50 million gas an hour, if nothing is configured.

    When they are used up, nothing more is accepted until the next clock hour; the
    repetition of a request that was accepted is, and another tenant's refunds are.
    """
    gateway, other = (Tenant(subjects=(name,)) for name in ("gateway", "other"))
    world.tenants = TenantRegistry({"gateway": gateway, "other": other})
    world.change_token(max_gas=2_500_000)
    world.chain.gas = 1_999_999  # A quarter is added.
    burnt = [world.accepted(amount=DUST) for _ in range(25)]
    for _ in range(3):
        world.work(after=timedelta(seconds=31))
    submission = world.submit(key="more", service=world.service, tenant="other")

    assert 45_000_000 < _gas(world, burnt) <= 50_000_000
    assert submission.created
    more = replace(REQUEST, amount=DUST, reference="more")
    for _ in range(2):
        with pytest.raises(LimitReachedError, match="gas_per_hour on local, 50000000"):
            world.submit(more, key="dust", service=world.service)
    first = world.stored(burnt[0])
    repeated = replace(REQUEST, amount=DUST, reference=first.reference)
    again = world.submit(repeated, key=first.idempotency_key, service=world.service)
    assert (again.refund.id, again.created) == (first.id, False)
    world.clock.advance(hours=1)
    assert world.submit(more, key="dust", service=world.service).created


def test_one_tenants_dust_leaves_gas_for_others(world: World) -> None:
    """Its refunds wait, and another tenant's refund is paid in the same hour."""
    world.tenants = _tenants(gas_per_hour=GAS_PER_HOUR)
    refunds = [world.accepted(amount=DUST) for _ in range(60)]
    for _ in range(4):
        world.work(after=timedelta(seconds=31))
    submission = world.submit(tenant="other")

    assert GAS_PER_HOUR * 0.9 < _gas(world, refunds) <= GAS_PER_HOUR
    assert submission.refund.status is Status.BROADCAST


def test_transactions_of_one_wei_meet_the_same_limit(world: World) -> None:
    """Those of ``eth_sendTransaction``, which a rule of the operator permits."""
    world.tenants = _tenants(gas_per_hour=GAS_PER_HOUR)
    node = ScriptedProxy({"eth_getTransactionCount": "0x0"})
    service = ruled(world, RULES).service
    sender = TransactionSender(service, world.store, world.clock, {"local": node}, {})
    one_wei = ContractCall(world.signer.address, CHAIN_ID, CUSTOMER, 1, b"")

    def send(number: int) -> Refund:
        return sender.accept(one_wei, "local", "gateway", ACTOR, f"key-{number}")

    calls = [send(number) for number in range(70)]
    for _ in range(6):
        world.work(after=timedelta(seconds=31))
    burnt = _gas(world, calls)

    assert GAS_PER_HOUR * 0.9 < burnt <= GAS_PER_HOUR
    with pytest.raises(LimitReachedError, match="gas_per_hour"):
        send(150)
    world.work(after=timedelta(hours=1))
    assert burnt < _gas(world, calls) <= 2 * GAS_PER_HOUR
