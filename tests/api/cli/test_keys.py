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
    """Return ``hotwallet`` with the test's ledger, networks and token."""
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


def test_an_empty_ring(run: Run) -> None:
    """Before the first start there is no key; a hint explains how to add one."""
    finished, as_json = run("keys", "list"), run("keys", "list", "--json")

    assert (finished.status, as_json.status) == (0, 0)
    assert finished.out.startswith("the key ring is empty")
    assert as_json.json == []


def test_lists_the_ring(run: Run, old: Key, new: str, sqlite_store: SQLStore) -> None:
    """One line per key, or a JSON array, with at most eight characters of an id."""
    run("keys", "rotate", new, "--yes")
    finished, as_json = run("keys", "list"), run("keys", "list", "--json")
    lines = finished.out.splitlines()

    assert (finished.status, as_json.status) == (0, 0)
    shown = [f"{each[:8]}..." for each in (new, old.key_id)]
    assert [line.split()[0] for line in lines] == shown
    assert lines[0].endswith("  active, epoch 2")
    assert lines[1].endswith("  draining, epoch 1")
    assert [key["state"] for key in as_json.json] == ["active", "draining"]
    for text in (finished.out, finished.err, as_json.out):
        assert new not in text


def test_rotates(run: Run, old: Key, new: str, sqlite_store: SQLStore) -> None:
    """The result alone is on standard output; repeating the command succeeds."""
    finished, again = (run("keys", "rotate", new, "--yes") for _ in range(2))
    active = sqlite_store.active_key()

    assert active is not None
    assert (finished.status, again.status) == (0, 0)
    assert finished.out.splitlines()[:2] == [
        f"rotated: {new[:8]}... {active.address}",
        f"  before: {old.key_id[:8]}... {old.address}",
    ]
    assert "  local: 0" in finished.out
    assert "  warning: the address has changed" in finished.out
    assert "already active" in again.out
    assert (active.key_id, active.epoch) == (new, 2)
    assert (active.requested_by or "").startswith("cli:")


def test_rotates_as_json(run: Run, old: Key, new: str, sqlite_store: SQLStore) -> None:
    dry_run = run("keys", "rotate", new, "--dry-run", "--json")
    between = list(sqlite_store.keys())
    rotated = run("keys", "rotate", new, "--json", "--yes")

    assert (dry_run.status, rotated.status) == (0, 0)
    assert between == [old]
    assert (dry_run.json["status"], dry_run.json["epoch"]) == ("would-rotate", None)
    assert (rotated.json["status"], rotated.json["epoch"]) == ("rotated", 2)
    assert rotated.json["previousAddress"] == old.address
    (holding,) = rotated.json["holdings"]
    assert (holding["network"], holding["nonce"]) == ("local", 0)
    assert holding["error"] is None


def test_waits_for_funds(
    run: Run,
    old: Key,
    new: str,
    softhsm: PKCS11Backend,
    fresh_anvil: DevChain,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """O3: status 1 while the new address lacks required funds, and 0 afterwards."""
    monkeypatch.setenv("ROTATION_NEEDS_FUNDS", "true")
    dry_run = run("keys", "rotate", new, "--dry-run")
    waiting = run("keys", "rotate", new, "--yes")
    listed = run("keys", "list")
    coin.fund(fresh_anvil.url, _address(softhsm, new), token=fresh_anvil.token)
    rotated = run("keys", "rotate", new, "--yes")

    assert (dry_run.status, dry_run.out[:18]) == (1, "would-await-funds:")
    assert (waiting.status, waiting.out[:15]) == (1, "awaiting-funds:")
    assert "pending, awaiting-funds, epoch -" in listed.out
    assert (rotated.status, rotated.out[:8]) == (0, "rotated:")


def test_rotation_to_a_missing_key_fails(
    run: Run, old: Key, sqlite_store: SQLStore
) -> None:
    missing = secrets.token_hex(16)
    finished = run("keys", "rotate", missing, "--yes")

    assert (finished.status, finished.out) == (1, "")
    assert (
        "error: new-key-unhealthy: there is no private key with this id"
        " (key-not-found)\n"
    ) in finished.err
    assert missing not in finished.err
    assert "Traceback" not in finished.err
    assert sqlite_store.active_key() == old


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rotate", "not hex"], "NEW_KEY_ID must be a CKA_ID in hex"),
        (["rotate", "02", "--from", "0x12"], "--from must be an address"),
        (["revoke", "0x12"], "ADDRESS must be an address"),
    ],
)
def test_a_malformed_argument(
    run: Run, old: Key, arguments: list[str], message: str
) -> None:
    """Status 1; the message names the argument as the help does."""
    finished = run("keys", *arguments, "--yes")

    assert (finished.status, finished.out) == (1, "")
    assert f"error: invalid-input: {message}" in finished.err


def test_checks_the_address_of_the_active_key(
    run: Run, old: Key, new: str, sqlite_store: SQLStore
) -> None:
    """
    O2: --from takes the active address in any case; another address is refused.

    O8: --compromised blocks the old key for good, once the new address has funds or
    the operator does not wait for them.
    """
    other = run("keys", "rotate", new, "--from", "0x" + "1" * 40, "--yes")
    before = sqlite_store.active_key()
    revoke = ("keys", "rotate", new, "--compromised", "--yes", "--from")
    waiting = run(*revoke, old.address, "--json")
    finished = run(*revoke, old.address.lower(), "--without-funds")
    again = run(*revoke, old.address, "--json")
    unnamed = run("keys", "rotate", new, "--compromised", "--yes")
    back = run("keys", "rotate", old.key_id, "--yes")
    ring = sqlite_store.keys()

    assert other.status == 1
    assert f"error: conflict: nothing was changed: {old.address}" in other.err
    assert before == old
    assert (waiting.status, waiting.json["status"]) == (1, "awaiting-funds")
    assert (finished.status, finished.out[:8]) == (0, "rotated:")
    assert "error: invalid-input: --from is required" in unnamed.err
    assert (again.status, again.json["previousAddress"]) == (0, old.address)
    assert (back.status, back.out) == (1, "")
    assert "error: conflict: " in back.err
    assert [key.state for key in ring] == ["active", "blocked"]


def test_revokes_a_former_key(
    run: Run, old: Key, new: str, sqlite_store: SQLStore
) -> None:
    """O8: status 0 and the key's new state; repeating the command succeeds."""
    run("keys", "rotate", new, "--yes")
    finished = run("keys", "revoke", old.address.lower(), "--yes")
    again = run("keys", "revoke", old.address, "--json", "--yes")
    ring = sqlite_store.keys()

    assert (finished.status, finished.out) == (0, f"blocked: {old.address}\n")
    assert again.status == 0
    assert again.json["state"] == "blocked"
    assert again.json["keyId"] == f"{old.key_id[:8]}..."
    assert again.json["strandedRefunds"] == []
    assert [key.state for key in ring] == ["active", "blocked"]


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


def test_reinstates_a_revoked_key(
    run: Run, old: Key, new: str, sqlite_store: SQLStore
) -> None:
    """O8: status 0 and the key's new state; the list shows until when it may be."""
    run("keys", "rotate", new, "--yes")
    run("keys", "revoke", old.address, "--yes")
    listed = run("keys", "list").out
    reinstate = ("keys", "reinstate", old.address, "--reason", "the wrong address")
    planned, done = run(*reinstate, "--dry-run"), run(*reinstate, "--yes")
    again = run(*reinstate, "--yes", "--json")
    ring = sqlite_store.keys()

    assert f"{old.address}  blocked, can be reinstated until 20" in listed
    assert planned.out == f"would be reinstated: {old.address}\n"
    assert (done.status, done.out) == (0, f"draining: {old.address}\n")
    assert (again.json["state"], again.json["openRefunds"]) == ("draining", [])
    assert [key.state for key in ring] == ["active", "draining"]


def test_revokes_a_former_key_that_waits_for_funds(
    run: Run,
    old: Key,
    new: str,
    softhsm: PKCS11Backend,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """O8: a former key that waits for funds can be revoked like any other."""
    run("keys", "rotate", new, "--yes")
    run("keys", "rotate", softhsm.generate(secrets.token_hex(8)), "--yes")
    monkeypatch.setenv("ROTATION_NEEDS_FUNDS", "true")
    waiting = run("keys", "rotate", new, "--yes")
    finished = run("keys", "revoke", _address(softhsm, new), "--yes")

    assert (waiting.status, waiting.out[:15]) == (1, "awaiting-funds:")
    assert (finished.status, finished.out[:8]) == (0, "blocked:")


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
