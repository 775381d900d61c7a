"""Whoever stops wallets, lets them go on or accepts what is foreign is on record."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import coincurve
import pytest
from structlog.testing import capture_logs

from backends.sql import SQLStore
from signer.alerts import Alerts
from signer.audit.log import AuditLog
from signer.chain.chain import Chain
from signer.errors import (
    ChainUnavailableError,
    ConflictError,
    InvalidInputError,
    NotFoundError,
    StoreUnavailableError,
    WalletPausedError,
)
from signer.keys.admin_audit import AdminAudit
from signer.model.audit_record import Actor, Operation
from signer.model.refund import Status
from signer.refunds.nonce_admin import NonceAdmin
from tests.support.devices import honest, signer_over
from tests.support.keys import key_at, made_active
from tests.support.refunds import NETWORK, World, altered
from tests.support.ring import SILENCE


ALICE = Actor("cli:alice")


class System:
    """A wallet, its controls, and the records of what was done with them."""

    def __init__(self, store: SQLStore) -> None:
        self.store = store
        self.world = World(store)
        other = NETWORK.model_copy(update={"chain_id": 999})
        self.chains = {
            **self.world.chains,
            "other": Chain(other, self.world.chain),
        }

    def controls(self, store: Any = None) -> NonceAdmin:
        """Return the controls as a command that starts now has them."""
        audit = AuditLog(SILENCE, journal=self.store)
        minutes = AdminAudit(audit, Alerts(), Operation.ADMINISTRATION)
        return NonceAdmin(store or self.store, self.chains, minutes, self.world.clock)

    def estranged(self, strangers: int, blocks: int = 2) -> None:
        """Pay once, let strangers spend that many nonces, and add blocks."""
        self.world.broadcast()
        self.world.chain.mine()
        self.world.tracker.track()
        for _ in range(strangers):
            self.world.chain.mine_foreign(self.world.signer.address)
        self.world.chain.mine_empty(blocks)
        self.world.work()

    def given_up(self) -> str:
        """Give the first key up, which has paid once; return its address."""
        self.world.broadcast()
        self.world.mine_deep()
        self.world.tracker.track()
        self.world.others = (signer_over(honest(coincurve.PrivateKey.from_int(99))),)
        other = key_at(self.world.others[0].address)
        made_active(self.store, other, block=True)
        return self.world.signer.address

    @property
    def records(self) -> list[tuple[str, str, Mapping[str, Any]]]:
        """Event, outcome and details of what alice did, in its order."""
        self.store.seal()
        fields = [each.record.fields for each in self.store.sealed(0, 1000)]
        return [
            (each["event"], each["outcome"], each["details"])
            for each in fields
            if each.get("actor") == ALICE.name
            if each["operation"] == "administration"
        ]


@pytest.fixture
def system(sqlite_store: SQLStore) -> System:
    """A system in which nothing happened yet."""
    return System(sqlite_store)


def test_the_kill_switch_is_on_record(system: System) -> None:
    """Intent and outcome of each network, and whether anything was changed."""
    first = system.controls().pause("local", ALICE)
    again = system.controls().pause("local", ALICE)
    resumed = system.controls().resume("local", ALICE)
    asked = {"network": "local"}

    assert (first, again, resumed) == ({"local": True}, {"local": False}, first)
    assert system.records == [
        ("nonce-pause-requested", "success", asked),
        ("nonce-pause-succeeded", "success", asked | {"changed": True}),
        ("nonce-pause-requested", "success", asked),
        ("nonce-pause-succeeded", "success", asked | {"changed": False}),
        ("nonce-resume-requested", "success", asked),
        ("nonce-resume-succeeded", "success", asked | {"changed": True}),
    ]


def test_all_networks_are_stopped_each_on_record(system: System) -> None:
    """Without a name every network of the file is stopped."""
    told = system.controls().pause(None, ALICE)

    assert told == {"local": True, "other": True}
    assert system.store.stopped(NETWORK.chain_id) is not None
    assert system.store.stopped(999) is not None
    assert [(event, facts["network"]) for event, _, facts in system.records] == [
        ("nonce-pause-requested", "local"),
        ("nonce-pause-succeeded", "local"),
        ("nonce-pause-requested", "other"),
        ("nonce-pause-succeeded", "other"),
    ]


@pytest.mark.parametrize("what", ["pause", "resume", "repair"])
def test_a_network_that_is_not_there_is_on_record(system: System, what: str) -> None:
    """Whoever names another network is refused, and that he tried is known."""
    with pytest.raises(NotFoundError):
        getattr(system.controls(), what)("mainnet", ALICE)

    assert system.records == [
        (f"nonce-{what}-requested", "success", {"network": "mainnet"}),
        (f"nonce-{what}-refused", "not-found", {"network": "mainnet"}),
    ]


def test_what_the_ledger_did_not_take_is_on_record(system: System) -> None:
    """A switch that failed says by what."""

    def stop(chain_id: int, at: object) -> bool:
        raise StoreUnavailableError("the database does not answer")

    with pytest.raises(StoreUnavailableError):
        system.controls(altered(system.store, stop=stop)).pause("local", ALICE)

    assert [(event, outcome) for event, outcome, _ in system.records] == [
        ("nonce-pause-requested", "success"),
        ("nonce-pause-refused", "store-unavailable"),
    ]


def test_without_a_record_nothing_is_changed(system: System) -> None:
    """Where the intent cannot be written, the network goes on, and the log says so."""
    journal = altered(system.store, append=_unavailable)
    minutes = AdminAudit(
        AuditLog(SILENCE, journal=journal), Alerts(), Operation.ADMINISTRATION
    )
    controls = NonceAdmin(system.store, system.chains, minutes, system.world.clock)
    with capture_logs() as logs, pytest.raises(StoreUnavailableError):
        controls.pause("local", ALICE)

    assert system.store.stopped(NETWORK.chain_id) is None
    assert [each["event"] for each in logs] == ["refusal-not-recorded"]


def _unavailable(*arguments: object, **named: object) -> None:
    raise StoreUnavailableError("the database does not answer")


def test_what_was_foreign_and_accepted_is_on_record(system: System) -> None:
    """Each transaction that somebody accepted, with his name, and the outcome."""
    system.estranged(2)
    (found,) = system.controls().repair("local", ALICE)
    intent, *accepted, outcome = system.records

    assert (found.resumed, found.is_open) == (True, False)
    assert intent == ("nonce-repair-requested", "success", {"network": "local"})
    assert accepted == [
        (
            "foreign-transaction-accept-succeeded",
            "success",
            {
                "network": "local",
                "address": system.world.signer.address,
                "nonce": sighting.nonce,
                "tx_hash": sighting.tx_hash,
            },
        )
        for sighting in found.accepted
    ]
    assert [facts["nonce"] for _, _, facts in accepted] == [1, 2]
    assert outcome == (
        "nonce-repair-succeeded",
        "success",
        {"network": "local", "resumed": 1, "still_paused": 0},
    )


def test_what_cannot_be_accepted_yet_is_on_record(system: System) -> None:
    """The outcome is why the wallet stays paused, and nothing was accepted."""
    system.estranged(1, blocks=0)
    (found,) = system.controls().repair("local", ALICE)
    _, outcome = system.records

    assert (found.resumed, found.is_open, found.accepted) == (False, True, ())
    assert outcome == (
        "nonce-repair-refused",
        "wallet-paused",
        {"network": "local", "resumed": 0, "still_paused": 1},
    )


def test_a_wallet_in_order_is_on_record(system: System) -> None:
    """Also a repair that had nothing to do was asked for by somebody."""
    system.world.broadcast()
    system.controls().repair(None, ALICE)
    outcomes = [(event, facts) for event, _, facts in system.records]

    assert outcomes[1] == (
        "nonce-repair-succeeded",
        {"network": "local", "resumed": 0, "still_paused": 0},
    )
    assert [event for event, _ in outcomes] == [
        "nonce-repair-requested",
        "nonce-repair-succeeded",
    ] * 2


def test_a_chain_that_does_not_answer_is_on_record(system: System) -> None:
    """A repair that could not be begun says by what."""
    system.estranged(1)
    system.world.chain.fail("pending_count", ChainUnavailableError("gone"))
    with pytest.raises(ChainUnavailableError):
        system.controls().repair("local", ALICE)

    assert [(event, outcome) for event, outcome, _ in system.records] == [
        ("nonce-repair-requested", "success"),
        ("nonce-repair-refused", "chain-unavailable"),
    ]


def test_what_an_intruder_left_in_the_pool(system: System) -> None:
    """He stops everybody with it, for no block takes it, until a person says that it
    is his; then refunds go on (O8)."""
    address, world = system.given_up(), system.world
    world.chain.mine_foreign(address)
    world.chain.mine_empty(2)
    world.chain.send_foreign(address)
    refund = world.accepted()
    for _ in range(5):
        world.work(after=timedelta(seconds=31))
    before = world.stored(refund)

    told = system.controls().abandon(address.lower(), "local", ALICE)
    world.work(after=timedelta(seconds=31))
    after = world.stored(refund)
    intent, accepted, outcome = system.records

    assert (before.status, before.blocked_by) == (Status.QUEUED, "wallet-paused")
    assert told == {"local": True}
    assert (after.status, after.sender) == (
        Status.BROADCAST,
        world.others[0].address,
    )
    asked = {"network": "local", "address": address.lower()}
    assert intent == ("nonce-abandon-requested", "success", asked)
    assert (accepted[0], accepted[2]["nonce"]) == (
        "foreign-transaction-accept-succeeded",
        1,
    )
    assert outcome == ("nonce-abandon-succeeded", "success", asked | {"changed": True})


def test_what_a_block_has_is_not_abandoned(system: System) -> None:
    """It may be a payment of ours, and will be known once it is final (O8, R24)."""
    address = system.given_up()
    system.world.chain.mine_foreign(address)
    with pytest.raises(WalletPausedError, match="once it is final"):
        system.controls().abandon(address, "local", ALICE)

    assert [(event, outcome) for event, outcome, _ in system.records] == [
        ("nonce-abandon-requested", "success"),
        ("nonce-abandon-refused", "wallet-paused"),
    ]


def test_nobody_waits_for_what_is_known(system: System) -> None:
    """Where the wallet goes on, or never paid, there is nothing to abandon."""
    address = system.given_up()
    system.world.work()

    assert system.controls().abandon(address, None, ALICE) == {
        "local": False,
        "other": False,
    }


@pytest.mark.parametrize(
    ("address", "network", "error"),
    [
        (None, "local", ConflictError),
        ("0x12", "local", InvalidInputError),
        (None, "mainnet", NotFoundError),
    ],
)
def test_only_keys_that_were_given_up_are_abandoned(
    system: System, address: str | None, network: str, error: type[Exception]
) -> None:
    """The active key's nonces are waited for, whoever asks; and that is on record."""
    system.world.broadcast()
    with pytest.raises(error):
        system.controls().abandon(
            address or system.world.signer.address, network, ALICE
        )

    assert [event for event, _, _ in system.records] == [
        "nonce-abandon-requested",
        "nonce-abandon-refused",
    ]
