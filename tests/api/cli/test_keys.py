"""``hotwallet keys``, with a token and a chain."""

import secrets
from collections.abc import Callable
from pathlib import Path

import pytest

from api.auth.dev_tokens import provide_signing_key
from backends.aws_kms.backend import KMSBackend
from backends.pkcs11 import PKCS11Backend
from backends.sql import SQLStore
from dev import kms_faults as faults
from dev import stablecoin as coin
from dev.kms_emulator import KMSEmulator
from dev.kms_wire import Faults
from signer.crypto.der import parse_public_key
from signer.model.key import Key
from signer.ports.key_backend import KeyDirectory, KeyId
from tests.api.commands import Run
from tests.fixtures.chain import DevChain
from tests.support.keys import key_at
from tests.support.vault import LocalVault, deploy_vault


@pytest.fixture
def run(
    run: Run,
    softhsm_environ: dict[str, str],
    softhsm_key: KeyId,
    monkeypatch: pytest.MonkeyPatch,
) -> Run:
    for name, value in softhsm_environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PKCS11_KEY_ID", softhsm_key)
    return run


def _address(device: KeyDirectory, key_id: str) -> str:
    return parse_public_key(device.public_key(KeyId(key_id))).address


@pytest.fixture
def old(sqlite_store: SQLStore, softhsm: PKCS11Backend, softhsm_key: KeyId) -> Key:
    return sqlite_store.enrol(
        key_at(_address(softhsm, softhsm_key), key_id=softhsm_key)
    )


@pytest.fixture
def new(softhsm: PKCS11Backend) -> str:
    return softhsm.generate(secrets.token_hex(8))


def test_a_life_of_keys(run: Run, old: Key, new: str, sqlite_store: SQLStore) -> None:
    """
    O2, O8: rotated, revoked, reinstated and listed, on a real token.

    ``tests/api/actions`` has the output of each command.
    """
    other = run("keys", "rotate", new, "--from", "0x" + "1" * 40, "--yes")
    rotated = run("keys", "rotate", new, "--yes")
    revoked = run("keys", "revoke", old.address.lower(), "--yes")
    blocked = run("keys", "list")
    again = ("keys", "reinstate", old.address, "--reason", "the wrong address")
    reinstated = run(*again, "--yes")
    listed, as_json = run("keys", "list"), run("keys", "list", "--json")
    active = sqlite_store.active_key()
    lines = listed.out.splitlines()

    assert other.status == 1
    assert f"error: conflict: nothing was changed: {old.address}" in other.err
    for finished in (rotated, revoked, reinstated, listed, as_json):
        assert finished.status == 0, finished.err
        assert new not in finished.out + finished.err
    assert active is not None
    assert (active.key_id, active.epoch) == (new, 2)
    assert (active.requested_by or "").startswith("cli:")
    assert f"{old.address}  blocked, can be reinstated until 20" in blocked.out
    shown = [f"{each[:8]}..." for each in (new, old.key_id)]
    assert [line.split()[0] for line in lines] == shown
    assert lines[0].endswith("  active, epoch 2")
    assert lines[1].endswith("  draining, epoch 1")
    assert [key["state"] for key in as_json.json] == ["active", "draining"]


def test_an_empty_ring(run: Run) -> None:
    """Before the first start there is no key; a hint explains how to add one."""
    assert run("keys", "list").out.startswith("the key ring is empty")
    assert run("keys", "list", "--json").json == []


@pytest.fixture
def vault(
    networks: Callable[..., Path],
    fresh_anvil: DevChain,
    softhsm: PKCS11Backend,
    softhsm_key: KeyId,
) -> LocalVault:
    """The vault of the network: only the first key may pay."""
    vault = deploy_vault(
        fresh_anvil.url,
        fresh_anvil.token,
        caps=(5, 9),
        funds=100,
        operators=[_address(softhsm, softhsm_key)],
    )
    networks(vault=vault.address)
    return vault


def test_no_process_starts_with_a_vault_that_does_not_fit(
    run: Run, vault: LocalVault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T12: the guard asks the chain, with the key that is active."""
    provide_signing_key(tmp_path / "private.pem", tmp_path / "public.pem")
    monkeypatch.setenv("JWT_PUBLIC_KEY_FILE", str(tmp_path / "public.pem"))
    (address,) = vault.operators
    fits = run("guard", "--json")
    vault.call(vault.guardian, "removeOperator(address)", address)
    refused = run("guard", "--json")
    (refusal,) = refused.json["refusals"]

    assert fits.status == 0, fits.out
    assert fits.json["address"] == address
    assert (refused.status, refusal["code"]) == (78, "vault-operator-missing")
    assert f"--network local --add-operator {address}" in refusal["message"]


def test_a_rotation_with_a_vault(
    run: Run, old: Key, new: str, softhsm: PKCS11Backend, vault: LocalVault
) -> None:
    """The new key must be an operator; a revoked one is shown until it is none."""
    address = _address(softhsm, new)
    refused = run("keys", "rotate", new, "--yes")
    vault.after_delay("addOperator(address)", address)
    coin.fund(vault.url, address)
    compromised = ("--compromised", "--from", old.address, "--yes")
    rotated = run("keys", "rotate", new, *compromised)
    revoked = run("keys", "revoke", old.address, "--yes")
    as_json = run("keys", "revoke", old.address, "--yes", "--json")
    listed = run("keys", "list").out
    vault.call(vault.guardian, "removeOperator(address)", old.address)
    removed = run("keys", "list").out

    assert refused.status == 1
    assert "error: vault-operator-missing: the key of" in refused.err
    assert f"--network local --add-operator {address}" in refused.err
    assert rotated.status == 0
    step = f"hotwallet vault propose --network local --remove-operator {old.address}"
    assert step in rotated.out
    assert step in revoked.out
    assert [step in each for each in as_json.json["nextSteps"]] == [True]
    assert "next: the revoked key of" in listed
    assert step in listed
    assert "next:" not in removed
    # The tokens are in the vault: nothing waited for them on the new address.
    assert "the new address holds no TUSD" not in rotated.out


@pytest.mark.parametrize(("wait", "status"), [("20", 0), ("0", 1)])
def test_waits_for_a_grant(
    *,
    run: Run,
    sqlite_store: SQLStore,
    kms: KMSBackend,
    kms_key: KeyId,
    kms_emulator: KMSEmulator,
    kms_faults: Faults,
    monkeypatch: pytest.MonkeyPatch,
    wait: str,
    status: int,
) -> None:
    """K17: --wait retries while KMS denies the key."""
    monkeypatch.setenv("USE_KMS", "true")
    monkeypatch.setenv("KMS_KEY_ID", kms_key)
    monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", kms_emulator.endpoint)
    monkeypatch.setenv("AWS_REGION", kms_emulator.region)
    old = sqlite_store.enrol(key_at(_address(kms, kms_key), key_id=kms_key))
    arn = kms_emulator.create_key()
    kms_faults.on("Sign", faults.access_denied())
    finished = run("keys", "rotate", arn, "--wait", wait, "--yes")
    active = sqlite_store.active_key()

    assert active is not None
    assert finished.status == status
    assert ("not yet; trying again" in finished.err) == (status == 0)
    assert active.key_id == (arn if status == 0 else old.key_id)
    assert arn not in finished.out + finished.err
    assert dict(sqlite_store.alert_counts()) == (
        {} if status == 0 else {"rotation-refused": 1}
    )


@pytest.mark.parametrize("mode", ["--yes", "--dry-run"])
def test_wait_ends_without_the_key(
    run: Run, old: Key, sqlite_store: SQLStore, mode: str
) -> None:
    """K17: --wait tries again while no key has the name; a typo raises no alert."""
    finished = run("keys", "rotate", "ab" * 16, "--wait", "1", mode)

    assert (finished.status, finished.out) == (1, "")
    assert finished.err.count("not yet; trying again ...") == 1
    assert dict(sqlite_store.alert_counts()) == {}
