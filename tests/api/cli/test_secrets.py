"""The inventory of secrets: what is set, where, how old it is, and what is due."""

import os
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from api.health.secrets import WALLET_KEY, FoundSecret, find_secrets, load_secrets
from signer.config.settings import CREDENTIALS, Settings
from tests.api.commands import Run
from tests.support.keys import key_at


NOW = datetime(2026, 12, 1, tzinfo=UTC)


def _file(path: Path, days: int) -> str:
    path.write_text("secret", encoding="utf-8")
    at = (NOW - timedelta(days=days)).timestamp()
    os.utime(path, (at, at))
    return str(path)


def _found(**environ: str) -> dict[str, FoundSecret]:
    return {each.secret.name: each for each in find_secrets(environ, None)}


def test_a_secret_in_a_file_is_as_old_as_the_file(tmp_path: Path) -> None:
    found = _found(
        MAC_KEY_FILE=_file(tmp_path / "mac", 366),
        AUDIT_SIGNING_KEY_FILE=_file(tmp_path / "audit", 366),
        TREASURY_TOKEN_FILE=str(tmp_path / "missing"),
        PKCS11_PIN_FILE="",
    )

    assert {name: each.place for name, each in found.items()} == {
        "mac-key": "file",
        "checkpoint-key": "file",
        "treasury-token": "file",
    }
    mac, audit, missing = found.values()
    assert (mac.age(NOW), mac.is_due(NOW)) == (timedelta(days=366), True)
    assert (audit.age(NOW), audit.is_due(NOW)) == (timedelta(days=366), False)
    assert (missing.age(NOW), missing.is_due(NOW)) == (None, False)


def test_a_file_that_names_a_key_in_kms_has_no_known_age(tmp_path: Path) -> None:
    """And a URI may name the file of the PIN."""
    macs = tmp_path / "mac"
    macs.write_text("1-00 arn:aws:kms:eu-central-1:123456789012:key/1\n")
    pin = _file(tmp_path / "pin", 9)
    uri = f"pkcs11:token=refunds?pin-source=file:{pin}"
    found = _found(MAC_KEY_FILE=str(macs), PKCS11_TOKEN_LABEL=uri, PGPASSWORD="x")

    assert (found["mac-key"].place, found["mac-key"].age(NOW)) == ("AWS KMS", None)
    assert found["device-pin-source"].age(NOW) == timedelta(days=9)
    assert found["database-password"].place == "environment"


def test_a_secret_in_a_variable_has_no_known_age(tmp_path: Path) -> None:
    """But a client certificate that the URL of the database names is a file."""
    key = _file(tmp_path / "client.key", 5)
    found = _found(
        DATABASE_URL=f"postgresql://worker@db/refunds?sslkey={key}&sslmode=verify-full",
        ALERT_WEBHOOK_URL="https://alerts.example.com/secret",
    )

    assert found["database"].place == "environment"
    assert found["database"].age(NOW) is None
    assert found["database-certificate"].age(NOW) == timedelta(days=5)
    assert not found["alert-webhook"].is_due(NOW)


def test_the_wallets_key_is_as_old_as_its_row() -> None:
    made = NOW - timedelta(days=365, seconds=1)
    key = replace(key_at(f"0x{'11' * 20}"), created_at=made)
    (found,) = find_secrets({}, key)

    assert (found.secret.name, found.place) == (WALLET_KEY, "key ring")
    assert found.is_due(NOW)
    assert not found.is_due(NOW - timedelta(seconds=2))


def test_every_secret_setting_is_listed() -> None:
    """A variable of ours that has a secret, or names a file of one, is in the list."""
    listed = {each.variable for each in load_secrets()}
    fields = Settings.model_fields.items()
    ours = {(field.alias or name).upper() for name, field in fields} | {"PGPASSWORD"}
    secret = {
        name
        for name in {*ours, *CREDENTIALS}
        if re.search(
            r"(SECRET|PASSWORD|PIN|TOKEN|KEY|WEBHOOK_URL|DATABASE_URL)(_FILE)?$", name
        )
        and not name.startswith("AWS_")
    }

    # Of development, or of the device's own programs; one is a name and no secret.
    assert secret - listed == {
        *("JWT_SECRET", "JWT_SIGNING_KEY_FILE", "MERCHANT_WALLET_PRIVATE_KEY"),
        "PKCS11_PIN",
    }


def test_the_command_lists_them(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a value; the status is 1 if one is due."""
    fresh, old = tmp_path / "pin", tmp_path / "token"
    fresh.write_text("31337", encoding="utf-8")
    _file(old, 0)
    monkeypatch.setenv("PKCS11_PIN_FILE", str(fresh))
    good = run("secrets")
    monkeypatch.setenv("TREASURY_TOKEN_FILE", str(old))
    os.utime(old, (0, 0))
    due = run("secrets", "--json")

    assert good.status == 0
    assert (
        "device-pin (PKCS11_PIN_FILE, file): 0 days old, replace after 365" in good.out
    )
    assert "31337" not in good.out
    assert due.status == 1
    (token,) = [each for each in due.json if each["name"] == "treasury-token"]
    assert token["due"]
    assert token["ageDays"] > 20_000
    assert "treasury-token (TREASURY_TOKEN_FILE, file): " in run("secrets").out
