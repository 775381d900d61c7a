"""The doctor checks the active key, also if the configuration names another."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from backends.sql import SQLStore
from dev import stablecoin as coin
from dev.kms_emulator import KMSEmulator
from signer.diagnostics import CheckResult, State
from signer.model.audit_record import Record
from signer.model.key import Key
from signer.model.wallet import Pause
from signer.redact import key_prefix
from tests.extras.doctor.doctor import make_environ, run_doctor, states
from tests.fixtures import ledger
from tests.fixtures.chain import DevChain
from tests.fixtures.ledger import save
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
    """A healthy service with its first key."""
    first = sqlite_store.enrol(
        _key(kms_emulator, kms_emulator.create_key(multi_region=True))
    )
    coin.fund(fresh_anvil.url, first.address, token=fresh_anvil.token)
    environ = {
        **make_environ(tmp_path, fresh_anvil),
        "DATABASE_URL": sqlite_url,
        "USE_KMS": "true",
        "KMS_KEY_ID": first.key_id,
        "KMS_MAX_RETRIES": "1",
        "KMS_TIMEOUT_MS": "1800",
        "AWS_ENDPOINT_URL_KMS": kms_emulator.endpoint,
        "AWS_REGION": kms_emulator.region,
    }
    return Service(kms_emulator, sqlite_store, fresh_anvil, environ, first)


# The checks of a healthy key and a healthy network.
OF_THE_KEY = ("device", "key", "signature")
OF_THE_NETWORK = ("local gas", "local TUSD", "local nonces", "local worker")


def _of(results: Mapping[str, CheckResult], *names: str) -> set[str]:
    return {states(results)[name] for name in names}


def _require_well_but_for_the_setting(results: Mapping[str, CheckResult]) -> None:
    assert "failed" not in states(results).values(), results
    assert _of(results, *OF_THE_KEY, *OF_THE_NETWORK) == {"ok"}
    assert results["configured"].state is State.WARNING


def test_a_setting_that_names_the_active_key(service: Service) -> None:
    results = run_doctor(service.environ)

    assert _of(results, *OF_THE_KEY, *OF_THE_NETWORK, "configured") == {"ok"}
    assert results["configured"].detail == "KMS_KEY_ID names the active key"


def test_a_setting_that_names_the_old_region_is_a_warning(service: Service) -> None:
    arn = service.relocated()
    service.kms.down.add(service.kms.region)
    try:
        results = run_doctor(service.environ)
    finally:
        service.kms.down.clear()

    _require_well_but_for_the_setting(results)
    assert results["device"].detail.endswith(f" {service.first.address}")
    assert results["configured"].cure == (
        f"set KMS_KEY_ID to the active key's ARN, {key_prefix(arn)}, and AWS_REGION to"
        " that ARN's region"
    )
    assert arn.rpartition("/")[2] not in str(results)


@pytest.mark.parametrize("block", [False, True])
def test_a_setting_that_names_a_former_key_is_a_warning(
    service: Service, *, block: bool
) -> None:
    """A former key may be disabled."""
    active = service.rotated(block=block)
    service.kms.set_state(service.first.key_id, "Disabled")
    results = run_doctor(service.environ, WALLET_ADDRESS=service.first.address)

    _require_well_but_for_the_setting(results)
    configured = results["configured"]
    state = "blocked" if block else "draining"
    first = key_prefix(service.first.key_id)
    assert configured.detail == f"KMS_KEY_ID names {first}, which is {state}"
    assert configured.cure == (
        f"set KMS_KEY_ID to the active key's ARN, {key_prefix(active.key_id)}, and"
        f" WALLET_ADDRESS to {active.address}"
    )
    for key in (service.first, active):
        assert key.key_id.rpartition("/")[2] not in str(results)


def test_an_alias_of_a_disabled_key(service: Service) -> None:
    """The warning says that no process can start."""
    alias = f"alias/{service.first.address}"
    service.kms.create_alias(alias, service.first.key_id)
    before = run_doctor(service.environ, KMS_KEY_ID=alias)["configured"]
    active = service.rotated()
    service.kms.set_state(service.first.key_id, "Disabled")
    results = run_doctor(service.environ, KMS_KEY_ID=alias)

    assert before.state is State.OK
    _require_well_but_for_the_setting(results)
    assert results["configured"].detail.startswith("no process can start: ")
    assert "(key-unusable)" in results["configured"].detail
    assert key_prefix(active.key_id) in str(results["configured"].cure)


@pytest.mark.parametrize("setting", ["KMS_KEY_ID", "WALLET_ADDRESS"])
def test_a_setting_that_is_not_in_the_ring_fails(
    service: Service, setting: str
) -> None:
    value = UNKNOWN if setting == "WALLET_ADDRESS" else service.kms.create_key()
    results = run_doctor(service.environ, **{setting: value})

    assert results["configured"].state is State.FAILED
    assert results["configured"].detail.startswith("key-not-in-ring: ")
    assert key_prefix(service.first.key_id) in str(results["configured"].cure)
    assert _of(results, *OF_THE_KEY, *OF_THE_NETWORK) == {"ok"}


def test_a_disabled_active_key(service: Service) -> None:
    """Only the device check fails; the ring has the address for the others."""
    service.kms.set_state(service.first.key_id, "Disabled")
    results = run_doctor(service.environ)

    assert results["device"].detail.startswith("key-unusable: ")
    assert "hotwallet explain-code key-unusable" in str(results["device"].cure)
    assert "KMS_KEY_ID" not in str(results["device"].cure)
    assert _of(results, "key", "signature", "configured") == {"skipped"}
    assert _of(results, *OF_THE_NETWORK) == {"ok"}


def test_the_active_key_is_unknown(service: Service) -> None:
    """Without the database, a disabled configured key is a warning only."""
    service.kms.set_state(service.first.key_id, "Disabled")
    gone = "postgresql://nobody@127.0.0.1:9/refunds"
    results = run_doctor(service.environ, DATABASE_URL=gone)

    failed = [name for name, state in states(results).items() if state == "failed"]
    assert failed == ["database"]
    assert "(key-unusable)" in results["device"].detail
    assert results["device"].state is State.WARNING
    assert _of(results, "key", "signature", *OF_THE_NETWORK) == {"skipped"}
    assert "configured" not in results


def test_an_empty_ring(service: Service) -> None:
    """Before the first start, the configured key is checked."""
    service.store._database.transaction(lambda c: c.exec_driver_sql("DELETE FROM keys"))
    well = run_doctor(service.environ)
    service.kms.set_state(service.first.key_id, "Disabled")
    ill = run_doctor(service.environ)

    assert _of(well, "device", "signature", *OF_THE_NETWORK) == {"ok"}
    assert "run: hotwallet guard" in str(well["key"].cure)
    assert ill["device"].state is State.FAILED
    assert "KMS_KEY_ID" in str(ill["device"].cure)
    assert _of(ill, "key", "signature", *OF_THE_NETWORK) == {"skipped"}
    assert "configured" not in well.keys() | ill.keys()


def test_a_ring_of_another_backend(
    service: Service, softhsm_environ: dict[str, str]
) -> None:
    results = run_doctor({**service.environ, **softhsm_environ}, USE_KMS="false")

    assert results["device"].detail.startswith("key-backend-mismatch: ")
    assert _of(results, *OF_THE_NETWORK) == {"ok"}


@pytest.mark.parametrize("state", ["draining", "retired"])
def test_a_paused_wallet_of_a_former_key_is_reported(
    service: Service, state: str
) -> None:
    ledger.opened(service.store, sender=service.first.address)
    active = service.rotated()
    if state == "retired":
        service.retire_the_first()
    well = run_doctor(service.environ)["local nonces"]
    wallet = service.store.wallet(CHAIN, service.first.address)
    assert wallet is not None
    service.store.pause(wallet, Pause.FOREIGN_TRANSACTION, ledger.now())
    result = run_doctor(service.environ)["local nonces"]

    former = f"{service.first.address} ({state})"
    assert well.detail == (
        f"{active.address} has sent no transaction here;"
        f" the next nonce of {former} is 0, the chain's 0"
    )
    assert result.state is State.FAILED
    assert result.detail == f"wallet-paused: {former} is paused: foreign-transaction"
    assert str(result.cure).startswith("run: hotwallet nonce repair")


def _sent_elsewhere(service: Service, address: str) -> None:
    rpc = service.chain.rpc
    rpc("anvil_impersonateAccount", address)
    rpc.transact({"from": address, "to": address, "value": "0x0"})


def test_unknown_transactions_of_a_draining_key_are_reported(service: Service) -> None:
    ledger.opened(service.store, sender=service.first.address)
    service.rotated()
    _sent_elsewhere(service, service.first.address)
    result = run_doctor(service.environ)["local nonces"]

    assert result.state is State.FAILED
    assert result.detail == (
        f"wallet-paused: {service.first.address} (draining) has sent 1 transactions"
        " that the ledger lacks"
    )


def test_transactions_of_a_blocked_key(service: Service) -> None:
    """They pause the network only until a worker has recorded the earlier ones."""
    ledger.opened(service.store, sender=service.first.address)
    service.rotated(block=True)
    before = run_doctor(service.environ)["local nonces"]
    _sent_elsewhere(service, service.first.address)
    unknown = run_doctor(service.environ)["local nonces"]
    wallet = service.store.wallet(CHAIN, service.first.address)
    assert wallet is not None
    service.store.resume(wallet, ledger.now(), ())
    recorded = run_doctor(service.environ)["local nonces"]

    blocked = f"{service.first.address} (blocked)"
    assert before.state is State.OK
    assert unknown.detail == f"wallet-paused: {blocked} is paused: chain-ahead"
    assert recorded.state is State.OK
    assert f"{blocked} is 0, the chain's 1" in recorded.detail


def test_unknown_transactions_of_a_new_wallet_are_a_warning(service: Service) -> None:
    _sent_elsewhere(service, service.first.address)
    result = run_doctor(service.environ)["local nonces"]

    assert result.state is State.WARNING
    assert result.detail == (
        f"{service.first.address} has sent 1 transactions, and the ledger has none of"
        " them: its wallet starts paused"
    )


def test_an_overdue_refund_of_a_former_key_is_reported(service: Service) -> None:
    ledger.opened(service.store, sender=service.first.address)
    refund = ledger.reserved(
        service.store,
        ledger.accepted(service.store),
        sender=service.first.address,
        key_id=service.first.key_id,
    )
    save(service.store, refund, ledger.delay(refund, ledger.later(-61)))
    service.rotated()
    result = run_doctor(service.environ)["local worker"]

    assert result.state is State.FAILED
    assert refund.id in result.detail
