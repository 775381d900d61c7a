"""The doctor looks at the key that serves, whatever the configuration names."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from api.doctor.checks import CheckResult, State
from backends.sql import SQLStore
from dev import stablecoin as coin
from dev.kms_emulator import KMSEmulator
from signer.model.audit_record import Record
from signer.model.key import Key
from signer.model.wallet import Pause
from signer.redact import key_prefix
from tests.api.doctor.examined import examined, furnished, states
from tests.fixtures import ledger
from tests.fixtures.chain import DevChain
from tests.support.keys import key_at, made_active


THERE = "eu-west-1"
CHAIN = 31337
UNKNOWN = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"


@dataclass(frozen=True)
class Service:
    """A service whose keys are in KMS, and its environment."""

    kms: KMSEmulator
    store: SQLStore
    chain: DevChain
    environ: Mapping[str, str]
    first: Key

    def rotated(self, *, block: bool = False) -> Key:
        """Return another key, funded, that the ring was rotated to."""
        made = made_active(
            self.store, _key(self.kms, self.kms.create_key()), block=block
        )
        coin.fund(self.chain.url, made.address, token=self.chain.token)
        return made

    def retire_the_first(self) -> None:
        """Retire the first key, which has nothing open."""
        at = ledger.now()
        done = self.store.retire(
            [self.first.address], at, lambda key: Record.of({"event": "retired"}, at)
        )
        assert len(done) == 1

    def relocated(self) -> str:
        """Return the ARN of the replica that the first key was relocated to."""
        arn = self.kms.replicate(self.first.key_id, THERE)
        at = ledger.now()
        record = Record.of({"event": "relocation"}, at)
        self.store.relocate(self.first, arn, at, record)
        return arn


def _key(kms: KMSEmulator, arn: str) -> Key:
    return replace(key_at(kms.address(arn), key_id=arn), backend="aws-kms")


@pytest.fixture
def service(
    kms_emulator: KMSEmulator,
    sqlite_store: SQLStore,
    sqlite_url: str,
    fresh_anvil: DevChain,
    tmp_path: Path,
) -> Service:
    """A service in order, with the key that it began with."""
    first = sqlite_store.enrol(
        _key(kms_emulator, kms_emulator.create_key(multi_region=True))
    )
    coin.fund(fresh_anvil.url, first.address, token=fresh_anvil.token)
    environ = {
        **furnished(tmp_path, fresh_anvil),
        "DATABASE_URL": sqlite_url,
        "USE_KMS": "true",
        "KMS_KEY_ID": first.key_id,
        "KMS_MAX_RETRIES": "1",
        "KMS_TIMEOUT_MS": "1800",
        "AWS_ENDPOINT_URL_KMS": kms_emulator.endpoint,
        "AWS_REGION": kms_emulator.region,
    }
    return Service(kms_emulator, sqlite_store, fresh_anvil, environ, first)


# What a key that serves stands for, and those of a network in order.
OF_THE_KEY = ("device", "key", "signature")
OF_THE_NETWORK = ("local gas", "local TUSD", "local nonces", "local worker")


def _of(rungs: Mapping[str, CheckResult], *names: str) -> set[str]:
    return {states(rungs)[name] for name in names}


def _require_well_but_for_the_setting(rungs: Mapping[str, CheckResult]) -> None:
    assert "failed" not in states(rungs).values(), rungs
    assert _of(rungs, *OF_THE_KEY, *OF_THE_NETWORK) == {"ok"}
    assert rungs["configured"].state is State.WARNING


def test_the_setting_is_up_to_date(service: Service) -> None:
    """A configuration that names the active key is compared, and nothing to do."""
    rungs = examined(service.environ)

    assert _of(rungs, *OF_THE_KEY, *OF_THE_NETWORK, "configured") == {"ok"}
    assert rungs["configured"].said == "KMS_KEY_ID names the active key"


def test_relocated_while_the_old_region_is_down(service: Service) -> None:
    """The replica serves; that the setting names the other place is a warning."""
    arn = service.relocated()
    service.kms.down.add(service.kms.region)
    try:
        rungs = examined(service.environ)
    finally:
        service.kms.down.clear()

    _require_well_but_for_the_setting(rungs)
    assert rungs["device"].said.endswith(f"is {service.first.address}")
    assert rungs["configured"].cure == (
        f"set KMS_KEY_ID to the active key's ARN, {key_prefix(arn)}, and AWS_REGION to"
        " that ARN's region; docs/operations/deploy.md"
    )
    assert arn.rpartition("/")[2] not in str(rungs)


@pytest.mark.parametrize("block", [False, True])
def test_rotated_away_from_a_disabled_key(service: Service, *, block: bool) -> None:
    """A compromised key that was disabled, as the runbook has it, is nobody's fault."""
    active = service.rotated(block=block)
    service.kms.set_state(service.first.key_id, "Disabled")
    rungs = examined(service.environ, WALLET_ADDRESS=service.first.address)

    _require_well_but_for_the_setting(rungs)
    configured = rungs["configured"]
    state = "blocked" if block else "draining"
    first = key_prefix(service.first.key_id)
    assert configured.said == f"KMS_KEY_ID names {first}, which is {state}"
    assert configured.cure == (
        f"set KMS_KEY_ID to the active key's ARN, {key_prefix(active.key_id)}, and"
        f" WALLET_ADDRESS to {active.address}; docs/operations/rotation.md"
    )
    for key in (service.first, active):
        assert key.key_id.rpartition("/")[2] not in str(rungs)


def test_an_alias_of_a_disabled_key(service: Service) -> None:
    """What cannot be looked up stops the next start, and no refund until then."""
    alias = f"alias/{service.first.address}"
    service.kms.create_alias(alias, service.first.key_id)
    before = examined(service.environ, KMS_KEY_ID=alias)["configured"]
    active = service.rotated()
    service.kms.set_state(service.first.key_id, "Disabled")
    rungs = examined(service.environ, KMS_KEY_ID=alias)

    assert before.state is State.OK
    _require_well_but_for_the_setting(rungs)
    assert rungs["configured"].said.startswith("no process would start: ")
    assert "(key-unusable)" in rungs["configured"].said
    assert key_prefix(active.key_id) in str(rungs["configured"].cure)


@pytest.mark.parametrize("setting", ["KMS_KEY_ID", "WALLET_ADDRESS"])
def test_a_setting_that_the_ring_does_not_know(service: Service, setting: str) -> None:
    """What the guard would refuse fails, and the key that serves is well."""
    value = UNKNOWN if setting == "WALLET_ADDRESS" else service.kms.create_key()
    rungs = examined(service.environ, **{setting: value})

    assert rungs["configured"].state is State.FAILED
    assert rungs["configured"].said.startswith("key-not-in-ring: ")
    assert key_prefix(service.first.key_id) in str(rungs["configured"].cure)
    assert _of(rungs, *OF_THE_KEY, *OF_THE_NETWORK) == {"ok"}


def test_the_active_key_is_down(service: Service) -> None:
    """The key fails once; whose money it is the ring knows, and the rest is seen."""
    service.kms.set_state(service.first.key_id, "Disabled")
    rungs = examined(service.environ)

    assert rungs["device"].said.startswith("key-unusable: ")
    assert "docs/operations/hsm-down.md" in str(rungs["device"].cure)
    assert "KMS_KEY_ID" not in str(rungs["device"].cure)
    assert _of(rungs, "key", "signature", "configured") == {"skipped"}
    assert _of(rungs, *OF_THE_NETWORK) == {"ok"}


def test_nobody_tells_which_key_serves(service: Service) -> None:
    """With the database down, a configured key that is disabled may be a former one."""
    service.kms.set_state(service.first.key_id, "Disabled")
    gone = "postgresql://nobody@127.0.0.1:9/refunds"
    rungs = examined(service.environ, DATABASE_URL=gone)

    failed = [name for name, state in states(rungs).items() if state == "failed"]
    assert failed == ["database"]
    assert "(key-unusable)" in rungs["device"].said
    assert rungs["device"].state is State.WARNING
    assert _of(rungs, "key", "signature", *OF_THE_NETWORK) == {"skipped"}
    assert "configured" not in rungs


def test_an_empty_ring(service: Service) -> None:
    """Before the first start the configured key is what counts."""
    service.store._database.transaction(lambda c: c.exec_driver_sql("DELETE FROM keys"))
    well = examined(service.environ)
    service.kms.set_state(service.first.key_id, "Disabled")
    ill = examined(service.environ)

    assert _of(well, "device", "signature", *OF_THE_NETWORK) == {"ok"}
    assert "makes it the first one" in str(well["key"].cure)
    assert ill["device"].state is State.FAILED
    assert "KMS_KEY_ID" in str(ill["device"].cure)
    assert _of(ill, "key", "signature", *OF_THE_NETWORK) == {"skipped"}
    assert "configured" not in well.keys() | ill.keys()


def test_a_ring_of_another_device(
    service: Service, softhsm_environ: dict[str, str]
) -> None:
    """A token is not asked for a key of KMS's, and that is what is said."""
    rungs = examined({**service.environ, **softhsm_environ}, USE_KMS="false")

    assert rungs["device"].said.startswith("key-backend-mismatch: ")
    assert _of(rungs, *OF_THE_NETWORK) == {"ok"}


@pytest.mark.parametrize("state", ["draining", "retired"])
def test_a_former_key_whose_wallet_is_paused(service: Service, state: str) -> None:
    """It is looked at as well, and named: it may be what holds everything up."""
    ledger.opened(service.store, sender=service.first.address)
    active = service.rotated()
    if state == "retired":
        service.retire_the_first()
    well = examined(service.environ)["local nonces"]
    wallet = service.store.wallet(CHAIN, service.first.address)
    assert wallet is not None
    service.store.pause(wallet, Pause.FOREIGN_TRANSACTION, ledger.now())
    rung = examined(service.environ)["local nonces"]

    former = f"{service.first.address} ({state})"
    assert well.said == (
        f"{active.address} never paid anything here;"
        f" the next of {former} is 0, the chain's 0"
    )
    assert rung.state is State.FAILED
    assert rung.said == f"wallet-paused: {former} is paused: foreign-transaction"
    assert str(rung.cure).startswith("hotwallet nonce repair")


def _sent_elsewhere(service: Service, address: str) -> None:
    rpc = service.chain.rpc
    rpc("anvil_impersonateAccount", address)
    rpc.transact({"from": address, "to": address, "value": "0x0"})


def test_what_the_ledger_does_not_know_of_a_draining_key(service: Service) -> None:
    """The chain is ahead of a wallet that is not the active one's: it says whose."""
    ledger.opened(service.store, sender=service.first.address)
    service.rotated()
    _sent_elsewhere(service, service.first.address)
    rung = examined(service.environ)["local nonces"]

    assert rung.state is State.FAILED
    assert rung.said == (
        f"wallet-paused: {service.first.address} (draining) has sent 1 that the ledger"
        " does not know"
    )


def test_what_somebody_sends_with_a_key_that_was_given_up(service: Service) -> None:
    """It is in the way until a worker knows what was sent by then, and no longer."""
    ledger.opened(service.store, sender=service.first.address)
    service.rotated(block=True)
    before = examined(service.environ)["local nonces"]
    _sent_elsewhere(service, service.first.address)
    unknown = examined(service.environ)["local nonces"]
    wallet = service.store.wallet(CHAIN, service.first.address)
    assert wallet is not None
    service.store.resume(wallet, ledger.now())
    behind = examined(service.environ)["local nonces"]

    blocked = f"{service.first.address} (blocked)"
    assert before.state is State.OK
    assert unknown.said == f"wallet-paused: {blocked} is paused: chain-ahead"
    assert behind.state is State.OK
    assert f"{blocked} is 0, the chain's 1" in behind.said


def test_a_wallet_that_will_begin_paused(service: Service) -> None:
    """An address that was used before the ledger knew it is told of beforehand."""
    _sent_elsewhere(service, service.first.address)
    rung = examined(service.environ)["local nonces"]

    assert rung.state is State.WARNING
    assert rung.said == (
        f"{service.first.address} has sent 1, and the ledger knows of none: it begins"
        " paused"
    )


def test_a_draining_keys_refund_is_overdue(service: Service) -> None:
    """A worker takes up what a former key has promised, too."""
    ledger.opened(service.store, sender=service.first.address)
    refund = ledger.reserved(
        service.store,
        ledger.accepted(service.store),
        sender=service.first.address,
        key_id=service.first.key_id,
    )
    service.store.save(refund, refund.with_due_at(ledger.later(-61)))
    service.rotated()
    rung = examined(service.environ)["local worker"]

    assert rung.state is State.FAILED
    assert refund.id in rung.said
