"""``hotwallet`` with a key in Google Cloud KMS, from the first start to a rotation."""

import pytest

from backends.sql import SQLStore
from dev.google_kms_emulator import GoogleKMSEmulator
from dev.kms_wire import Faults
from signer.ports.key_backend import KeyId
from tests.api.commands import Run
from tests.fixtures.chain import DevChain
from tests.fixtures.google_kms import google_variables


@pytest.fixture
def run(
    run: Run,
    fresh_anvil: DevChain,
    google_kms_emulator: GoogleKMSEmulator,
    google_cloud_kms_key: KeyId,
    google_kms_faults: Faults,
    monkeypatch: pytest.MonkeyPatch,
) -> Run:
    variables = google_variables(google_kms_emulator, google_cloud_kms_key)
    variables |= {"JWT_ALGORITHM": "HS256", "JWT_SECRET": "x" * 64}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return run


def test_from_the_first_start_to_a_rotation(
    run: Run,
    sqlite_store: SQLStore,
    google_kms_emulator: GoogleKMSEmulator,
    google_cloud_kms_key: KeyId,
) -> None:
    """The first start adds the configured version to the ring; the next one signs."""
    started = run("guard", "--json")
    first = sqlite_store.active_key()
    new = google_kms_emulator.create_version()
    rotated = run("keys", "rotate", new, "--yes")
    active = sqlite_store.active_key()
    listed = run("keys", "list")
    again = run("guard", "--json")
    examined = run("doctor")

    assert started.status == 0, started.err
    assert first is not None
    assert (first.backend, first.key_id) == ("google-cloud-kms", google_cloud_kms_key)
    assert first.address == google_kms_emulator.address(google_cloud_kms_key)
    assert rotated.status == 0, rotated.err
    assert active is not None
    assert (active.key_id, active.epoch) == (new, 2)
    assert active.address == google_kms_emulator.address(new)
    assert again.json["address"] == active.address
    assert "GOOGLE_CLOUD_KMS_KEY names refund/" in examined.out
    assert "set GOOGLE_CLOUD_KMS_KEY to the active key's id" in examined.out
    assert f"refund/{new.rpartition('/')[2]}"[:8] in listed.out
    for finished in (started, rotated, listed, again, examined):
        assert "projects/" not in finished.out + finished.err


def test_a_rotation_moves_the_ring_to_another_backend(
    run: Run,
    sqlite_store: SQLStore,
    google_cloud_kms_key: KeyId,
    monkeypatch: pytest.MonkeyPatch,
    softhsm_environ: dict[str, str],
    softhsm_key: KeyId,
) -> None:
    """
    The command opens the new device only, so it needs the new settings.

    Neither device alone sweeps the old address.  Back is another rotation.
    """
    assert run("guard").status == 0
    first = sqlite_store.active_key()
    assert first is not None
    with monkeypatch.context() as changed:
        changed.delenv("KEY_BACKEND")
        for name, value in softhsm_environ.items():
            changed.setenv(name, value)
        changed.setenv("PKCS11_KEY_ID", softhsm_key)
        rotated = run("keys", "rotate", softhsm_key, "--from", first.address, "--yes")
        second = sqlite_store.active_key()
        again = run("guard", "--json")
        with_new = run("keys", "sweep", first.address, "--yes")
    refused = run("guard", "--json")
    with_old = run("keys", "sweep", first.address, "--yes")
    back = run("keys", "rotate", google_cloud_kms_key, "--yes")
    last = run("guard", "--json")

    assert rotated.status == 0, rotated.err
    assert second is not None
    assert (second.backend, second.key_id) == ("pkcs11", softhsm_key)
    assert again.json["address"] == second.address
    assert [each["code"] for each in refused.json["refusals"]] == [
        "key-backend-mismatch"
    ]
    assert "key-not-found" in with_new.err
    assert "key-not-found" in with_old.err
    assert back.status == 0, back.err
    assert last.json["address"] == first.address
