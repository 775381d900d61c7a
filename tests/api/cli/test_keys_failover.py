"""``hotwallet keys failover`` to a replica in another region of KMS."""

from dataclasses import replace
from pathlib import Path

import pytest

from backends.sql import SQLStore
from dev import kms_faults as faults
from dev.kms_emulator import KMSEmulator
from dev.kms_wire import Faults
from signer.model.key import Key
from tests.api.commands import Run
from tests.api.networks import write_networks
from tests.support.keys import key_at
from tests.support.ledgers import write_mac_key


REPLICA_REGION = "eu-west-1"


@pytest.fixture
def replica(
    kms_emulator: KMSEmulator, sqlite_store: SQLStore, monkeypatch: pytest.MonkeyPatch
) -> str:
    """A replica, in another region, of the ring's active key in KMS."""
    primary = kms_emulator.create_key(multi_region=True)
    sqlite_store.enrol(key_at_kms(kms_emulator.address(primary), primary))
    for name, value in {
        "USE_KMS": "true",
        "KMS_KEY_ID": primary,
        "AWS_ENDPOINT_URL_KMS": kms_emulator.endpoint,
        "AWS_REGION": kms_emulator.region,
    }.items():
        monkeypatch.setenv(name, value)
    return kms_emulator.replicate(primary, REPLICA_REGION)


def key_at_kms(address: str, arn: str) -> Key:
    return replace(key_at(address, key_id=arn), backend="aws-kms")


@pytest.fixture
def run(
    hotwallet: Run, sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Run:
    networks = write_networks(tmp_path / "networks.toml")
    monkeypatch.setenv("APP_ENV", "test")
    monkeypatch.setenv("NETWORKS_FILE", str(networks))
    monkeypatch.setenv("DATABASE_URL", sqlite_url)
    monkeypatch.setenv("MAC_KEY_FILE", str(write_mac_key(tmp_path)))
    # The time limit of a self-test has tests of its own; this machine may be busy.
    monkeypatch.setattr("signer.keys.key_proofs._STEP_SECONDS", 30.0)
    return hotwallet


def test_the_command_uses_the_region_of_the_arn(
    run: Run,
    replica: str,
    sqlite_store: SQLStore,
    kms_emulator: KMSEmulator,
) -> None:
    """The region of AWS_REGION is down; the output has no whole id."""
    kms_emulator.down.add(kms_emulator.region)
    try:
        rehearsed = run("keys", "failover", replica, "--dry-run", "--json")
        between = sqlite_store.active_key()
        finished = run("keys", "failover", replica, "--yes")
    finally:
        kms_emulator.down.clear()
    active = sqlite_store.active_key()

    assert (rehearsed.status, finished.status) == (0, 0), finished.err
    assert rehearsed.json["status"] == "would-relocate"
    assert between is not None
    assert between.key_id != replica
    assert active is not None
    assert (active.key_id, active.epoch) == (replica, 1)
    first, before, warning = finished.out.splitlines()
    assert first == f"relocated: {replica.rpartition('/')[2][:8]}... {active.address}"
    assert before.endswith("...; the key is active")
    assert warning.startswith("  warning: roles with permission for the old key id")
    shown = finished.out + finished.err + rehearsed.out + rehearsed.err
    assert replica.rpartition("/")[2] not in shown
    assert REPLICA_REGION not in shown


def test_the_command_refuses_a_replica_that_cannot_sign(
    run: Run,
    replica: str,
    sqlite_store: SQLStore,
    kms_emulator: KMSEmulator,
    kms_faults: Faults,
) -> None:
    """Status 1 for a disabled or denied replica; the active key is unchanged."""
    before = sqlite_store.active_key()
    kms_emulator.set_state(replica, "Disabled")
    disabled = run("keys", "failover", replica, "--yes")
    kms_emulator.set_state(replica, "Enabled")
    kms_faults.always("Sign", faults.only_in(REPLICA_REGION, faults.access_denied()))
    denied = run("keys", "failover", replica, "--yes")

    assert [(each.status, each.out) for each in (disabled, denied)] == [(1, "")] * 2
    assert "new-key-unhealthy" in disabled.err
    assert "new-key-unhealthy" in denied.err
    assert sqlite_store.active_key() == before


@pytest.mark.parametrize("command", ["failover", "rotate"])
def test_the_command_refuses_a_key_that_is_not_allowed(
    run: Run, replica: str, kms_emulator: KMSEmulator, command: str
) -> None:
    """By default that is one of another account; KMS is not asked, and --wait ends."""
    asked = len(kms_emulator.journal)
    options = ["--wait", "60"] if command == "rotate" else []
    elsewhere = replica.replace("123456789012", "444455556666")
    finished = run("keys", command, elsewhere, *options, "--yes")

    assert finished.status == 1
    assert "NEW_KEY_ID must be a key that KMS_ALLOWED_KEYS allows" in finished.err
    assert "444455556666" not in finished.err
    assert len(kms_emulator.journal) == asked


def test_the_command_obeys_the_list(
    run: Run,
    replica: str,
    kms_emulator: KMSEmulator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A list without the replica's region forbids what the default allows."""
    home = replica.replace(REPLICA_REGION, kms_emulator.region)
    monkeypatch.setenv("KMS_ALLOWED_KEYS", home)
    refused = run("keys", "failover", replica, "--yes")
    monkeypatch.setenv("KMS_ALLOWED_KEYS", f"{home},{replica}")
    allowed = run("keys", "failover", replica, "--yes")

    assert (refused.status, allowed.status) == (1, 0), allowed.err
    assert "KMS_ALLOWED_KEYS" in refused.err
