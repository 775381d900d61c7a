"""The kill switch: who stopped what and why, and what goes on meanwhile."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from backends.sql import SQLStore
from signer.alerts import Alerts
from signer.audit.log import AuditLog
from signer.config.deny_list import DenyList
from signer.config.networks import Network
from signer.config.tenants import TenantRegistry
from signer.errors import (
    ConfigurationError,
    InvalidInputError,
    NotFoundError,
    RowNotAuthenticError,
    SigningStoppedError,
    StaleStateError,
    StoreUnavailableError,
)
from signer.keys.admin_audit import AdminAudit
from signer.model.audit_record import Actor, Operation
from signer.model.hold import EVERYTHING, name_of_token
from signer.model.refund import COIN_ADDRESS, Status
from signer.refunds.hold_admin import Holds
from tests.fixtures.ledger import forge, forged_end
from tests.fixtures.scripted_chain import Sent
from tests.support.devices import honest, signer_over
from tests.support.ledgers import seal
from tests.support.refunds import CUSTOMER, KEY, NETWORK, SECOND, World, altered
from tests.support.ring import SILENCE
from tests.support.signings import Unchecked


ALICE = Actor("token:alice")
DIGEST = bytes(range(1, 33))


class System:
    """A wallet, its kill switch, and the audit records."""

    def __init__(self, store: SQLStore) -> None:
        self.store = store
        audit = AuditLog(SILENCE, journal=store)
        self.world = World(store, signer=signer_over(honest(KEY), audit))
        other = NETWORK.model_copy(update={"chain_id": 999})
        self.networks: Mapping[str, Network] = {"local": NETWORK, "other": other}

    def switch(
        self, store: Any = None, networks: Callable[[], Any] | None = None
    ) -> Holds:
        """Return the kill switch of a process that starts now."""
        audit = AuditLog(SILENCE, journal=store or self.store)
        return Holds(
            store or self.store,
            networks or (lambda: self.networks),
            TenantRegistry,
            AdminAudit(audit, Operation.ADMINISTRATION),
            alerts=Alerts(self.store),
            clock=self.world.clock,
        )

    @property
    def records(self) -> list[tuple[str, str, str, Mapping[str, Any]]]:
        """Event, outcome, actor and details of administrative records, in order."""
        seal(self.store)
        fields = [each.record.fields for each in self.store.sealed(0, 1000)]
        return [
            (each["event"], each["outcome"], each["actor"], each["details"])
            for each in fields
            if each["operation"] == "administration"
        ]


@pytest.fixture
def system(sqlite_store: SQLStore) -> System:
    """A system without history."""
    return System(sqlite_store)


def test_stop_and_resume_are_audited(system: System) -> None:
    """Intent and outcome, who, why, and whether anything changed."""
    switch = system.switch()
    stops = [switch.stop("local", ALICE.because("odd refunds")) for _ in range(2)]
    resumed = [switch.resume("local", ALICE.because("explained")) for _ in range(2)]
    assert system.store.alert_counts() == {"signing-stopped": 1}
    why = {"network": "local", "reason": "odd refunds"}
    explained = {"network": "local", "reason": "explained"}

    assert [result.changed for result in (*stops, *resumed)] == [True, False] * 2
    assert [len(result.stops) for result in (*stops, *resumed)] == [1, 1, 0, 0]
    assert system.records == [
        (event, "success", "token:alice", details)
        for event, details in (
            ("signing-stop-requested", why),
            ("signing-stop-succeeded", {**why, "changed": True, "hold_changes": 1}),
            ("signing-stop-requested", why),
            ("signing-stop-succeeded", {**why, "changed": False, "hold_changes": 1}),
            ("signing-resume-requested", explained),
            (
                "signing-resume-succeeded",
                {**explained, "changed": True, "hold_changes": 2},
            ),
            ("signing-resume-requested", explained),
            (
                "signing-resume-succeeded",
                {**explained, "changed": False, "hold_changes": 2},
            ),
        )
    ]


def test_a_stop_of_everything_needs_no_networks_file(system: System) -> None:
    """It works in an emergency; names are unknown then."""

    def unusable() -> None:
        raise ConfigurationError

    switch = system.switch(networks=unusable)
    (stop,) = switch.stop(None, ALICE.because("stolen key")).stops

    assert (stop.chain_id, stop.requested_by) == (EVERYTHING, "token:alice")
    assert switch.names() == {}
    assert system.switch().names() == {NETWORK.chain_id: "local", 999: "other"}


def test_stops_are_ended_separately(system: System) -> None:
    """Resuming everything leaves the stop of a network in force, and shows it."""
    switch = system.switch()
    switch.stop("local", ALICE.because("odd refunds"))
    switch.stop(None, ALICE.because("stolen key"))
    left = switch.resume(None, ALICE.because("explained"))

    assert [stop.chain_id for stop in left.stops] == [NETWORK.chain_id]
    assert not switch.resume(None, ALICE.because("explained")).changed


@pytest.mark.parametrize("reason", ["", "  ", "x" * 201, "two\nlines", "bell\a"])
def test_a_reason_is_required(system: System, reason: str) -> None:
    """Nothing is changed or recorded without one."""
    for command in (system.switch().stop, system.switch().resume):
        with pytest.raises(InvalidInputError) as raised:
            command(None, ALICE.because(reason))
        assert raised.value.field == "reason"

    assert (system.store.stops(), system.records) == ((), [])


def test_an_unknown_network_is_audited(system: System) -> None:
    with pytest.raises(NotFoundError):
        system.switch().stop("mainnet", ALICE.because("odd refunds"))

    assert [(event, outcome) for event, outcome, *_ in system.records] == [
        ("signing-stop-requested", "success"),
        ("signing-stop-refused", "not-found"),
    ]


def test_a_changed_stop_is_replaced(system: System) -> None:
    """It cannot be resumed before an operator has stopped again."""
    switch = system.switch()
    switch.stop("local", ALICE.because("odd refunds"))
    forged_end(system.store)

    assert [stop.is_authentic for stop in switch.stops()] == [False]
    with pytest.raises(RowNotAuthenticError, match="hotwallet stop"):
        switch.resume("local", ALICE.because("explained"))
    (stop,) = switch.stop("local", ALICE.because("again")).stops
    assert (stop.is_authentic, stop.reason) == (True, "again")
    assert switch.resume("local", ALICE.because("explained")).stops == []


def test_a_stop_of_a_chain_without_a_network(system: System) -> None:
    """A row that another program inserted can be ended by its chain id."""
    switch = system.switch()
    at = system.world.clock().isoformat(timespec="microseconds")
    forge(
        system.store,
        "INSERT INTO holds (name, at, reason, requested_by, version)"
        f" VALUES ('network 999999', '{at}', 'forged', 'thief', 0)",
    )

    with pytest.raises(NotFoundError, match="chain id"):
        switch.stop(None, ALICE.because("forged"), chain_id=999_998)
    assert switch.stop(None, ALICE.because("forged"), chain_id=999_999).changed
    assert switch.resume(None, ALICE.because("forged"), chain_id=999_999).stops == []
    assert system.records[-1][3] == {
        "network": None,
        "chain_id": "999999",
        "reason": "forged",
        "changed": True,
        "hold_changes": 2,
    }


@pytest.mark.parametrize("chain_id", [EVERYTHING, NETWORK.chain_id])
def test_a_stop_by_chain_id(system: System, chain_id: int) -> None:
    """A chain id of the networks file, and that of everything, need no stored stop."""
    (stop,) = system.switch().stop(None, ALICE.because("odd"), chain_id=chain_id).stops

    assert stop.chain_id == chain_id


def test_nothing_changes_without_an_audit_record(system: System) -> None:
    broken = altered(system.store, append=StoreUnavailableError("gone"))
    with pytest.raises(StoreUnavailableError):
        system.switch(broken).stop(None, ALICE.because("stolen key"))

    assert system.store.stops() == ()


@pytest.mark.parametrize("network", ["local", None])
@pytest.mark.parametrize("steps", [0, 1, 2, 3])
def test_refunds_wait_in_every_status(
    system: System, network: str | None, steps: int
) -> None:
    """
    In every status, nothing more is signed or sent for the first time.

    Afterwards each goes on with the nonce that it has (R27).
    """
    world = system.world
    refund = world.step(world.accepted(), times=steps)
    sent = len(world.chain.broadcasts)
    system.switch().stop(network, ALICE.because("odd refunds"))
    sends = []
    for _ in range(5):
        world.work(after=timedelta(seconds=60))
        sends.append(len(world.chain.broadcasts) - sent)
    waiting, resent = world.stored(refund), set(world.chain.broadcasts)
    system.switch().resume(network, ALICE.because("explained"))
    world.work(after=timedelta(seconds=60))

    assert (waiting.status, waiting.nonce) == (refund.status, refund.nonce)
    if refund.status is Status.BROADCAST:
        assert resent == set(world.chain.broadcasts[:sent])
        assert sends == sorted({*sends})  # Each pass sends it again.
    else:
        assert waiting.moving.blocked_by == "signing-stopped"
        assert resent == set()
    assert world.stored(refund).status is Status.BROADCAST


@pytest.mark.parametrize("steps", [0, 1, 2, 3])
def test_other_tokens_go_on(system: System, steps: int) -> None:
    """
    A queued refund of a stopped token waits, and is paid when it goes on.

    One that has a nonce and is not in a block ends, and a no-op consumes the nonce: it
    would hold up those of other tokens (R27).
    """
    world = system.world
    refund = world.step(world.accepted(), times=steps)
    earlier = len(world.chain.broadcasts)
    system.switch().stop("local", ALICE.because("odd mints"), token="TUSD")
    for _ in range(3):
        world.work(after=timedelta(seconds=60))
    sent = [Sent.read(raw) for raw in world.chain.broadcasts[earlier:]]
    world.mine_deep()
    world.confirmation_tracker.track()
    after = world.tracked(refund)
    system.switch().resume("local", ALICE.because("explained"), token="TUSD")
    world.work(after=timedelta(seconds=60))

    if steps == 0:
        assert (after.status, after.blocked_by) == (Status.QUEUED, "token-stopped")
        assert world.stored(refund).status is Status.BROADCAST
    else:
        assert (after.status, after.failure_code) == (Status.FAILED, "token-stopped")
        assert {each.to for each in sent} == {world.signer.address}
        assert world.broadcast().status is Status.BROADCAST


def test_a_stop_of_a_token_frees_a_refused_nonce(
    system: System, tmp_path: Path
) -> None:
    """An operator can end a refund that the policy refuses since it has a nonce."""
    world, denied = system.world, tmp_path / "denied.txt"
    denied.write_text(SECOND.address)
    world.deny_list = DenyList(denied)
    refund = world.step(world.accepted())
    denied.write_text(CUSTOMER)
    world.work(after=timedelta(seconds=60))
    blocked = world.blocked(refund)

    system.switch().stop("local", ALICE.because("a denied recipient"), token="TUSD")
    for _ in range(3):
        world.work(after=timedelta(seconds=60))
    world.mine_deep()
    world.confirmation_tracker.track()
    after = world.tracked(refund)

    assert blocked == (Status.RESERVED, "policy-violation")
    assert {Sent.read(raw).to for raw in world.chain.broadcasts} == {
        world.signer.address
    }
    assert (after.status, after.failure_code) == (Status.FAILED, "token-stopped")


def test_a_forged_stop_of_a_token_ends_no_refund(system: System) -> None:
    """Another program can make refunds wait, and not fail."""
    world = system.world
    refund = world.broadcast()
    at = world.clock().isoformat(timespec="microseconds")
    name = name_of_token(NETWORK.chain_id, NETWORK.tokens["TUSD"].address)
    forge(
        system.store,
        "INSERT INTO holds (name, at, reason, requested_by, version)"
        f" VALUES ('{name}', '{at}', 'forged', 'thief', 0)",
    )
    for _ in range(3):
        world.work(after=timedelta(seconds=60))

    assert world.blocked(refund) == (Status.BROADCAST, "row-not-authentic")
    world.mine_deep()
    world.confirmation_tracker.track()
    assert world.tracked(refund).status is Status.CONFIRMED


def test_a_stop_between_device_and_commit_of_a_token(system: System) -> None:
    """The next step signs a no-op in place of what was signed meanwhile (R27)."""
    world = system.world
    refund = world.step(world.accepted())
    device = world.signer._backend

    def sign(*arguments: Any) -> Any:
        system.switch().stop("local", ALICE.because("odd mints"), token="TUSD")
        return device.sign_digest(*arguments)

    world.signer._backend = altered(device, sign_digest=sign)
    with pytest.raises(StaleStateError):
        world.step(refund)
    world.work(after=timedelta(seconds=60))

    assert [Sent.read(raw).to for raw in world.chain.broadcasts] == [
        world.signer.address
    ]


@pytest.mark.parametrize(
    ("token", "network", "error"),
    [
        ("TUSD", None, InvalidInputError),
        ("USDX", "local", NotFoundError),
        ("0x" + "Ab" * 19 + "aB", "local", NotFoundError),
        ("ab" * 20, "local", NotFoundError),
        ("0x" + "ab" * 20 + "\n", "local", NotFoundError),
    ],
)
def test_a_token_must_be_known_or_an_address(
    system: System, token: str, network: str | None, error: type[Exception]
) -> None:
    """A mistyped address would stop another contract."""
    with pytest.raises(error):
        system.switch().stop(network, ALICE.because("odd mints"), token=token)

    assert system.store.stops() == ()


@pytest.mark.parametrize(
    ("token", "address"),
    [
        ("TUSD", NETWORK.tokens["TUSD"].address.lower()),
        (NETWORK.tokens["TUSD"].address, NETWORK.tokens["TUSD"].address.lower()),
        ("0x" + "ab" * 20, "0x" + "ab" * 20),
        ("coin", COIN_ADDRESS),
    ],
)
def test_a_token_in_each_spelling(system: System, token: str, address: str) -> None:
    """They are one stop, which each ends; the records have the address."""
    switch = system.switch()
    (stop,) = switch.stop("local", ALICE.because("odd mints"), token=token).stops
    (alone,) = switch.stop("local", ALICE.because("odd mints"), token=address).stops

    assert stop == alone
    assert (stop.chain_id, stop.token) == (NETWORK.chain_id, address)
    chain_id = NETWORK.chain_id
    resumed = switch.resume(None, ALICE.because("ok"), chain_id=chain_id, token=address)
    assert resumed.changed
    done = [each for each in system.records if each[0].endswith("succeeded")]
    assert [each[3]["contract"] for each in done] == [address] * 3


def test_messages_are_stopped_with_everything_only(system: System) -> None:
    """A message belongs to no network."""
    ring = system.world.ring
    message = Unchecked(Operation.MESSAGE_SIGNING)
    system.switch().stop("local", ALICE.because("odd refunds"))
    signature, _ = ring.sign_digest(DIGEST, message)
    system.switch().stop(None, ALICE.because("stolen key"))

    assert signature.r
    with pytest.raises(SigningStoppedError):
        ring.sign_digest(DIGEST, message)


def test_a_stolen_key_can_be_replaced_while_everything_is_stopped(
    system: System,
) -> None:
    """Self-tests sign nothing of value, and a rotation needs one."""
    ring = system.world.ring
    system.switch().stop(None, ALICE.because("stolen key"))
    ring.self_test()
    system.world.signer.self_test(while_active=True)
    system.world.rotate(block=True)

    active = system.store.active_key()
    assert active is not None
    assert active.address == SECOND.address
