"""Rows that are signed as the single requests for them."""

import json
from base64 import urlsafe_b64encode
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from falcon.testing import TestClient

from api.extras.batch_files.files import Row
from api.extras.batch_files.request_signing import RequestSigner
from api.http.app import create_app
from backends.sql import SQLStore
from tests.api.batches import codes, statuses, submit
from tests.api.commands import Run
from tests.api.service import BODY, build_container
from tests.api.support import SettableClock, bearer
from tests.support.signed_requests import RequestKey, signing_tenants


ED25519 = RequestKey()
P256 = RequestKey("p256", ec.generate_private_key(ec.SECP256R1()))
ROWS = [
    Row(n, f"k{n}", {**BODY, "payment_session_id": f"ps_{n}", "reason": "Für dich 🙁"})
    for n in range(2)
]


def write(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("key", [ED25519, P256], ids=lambda key: key.key_id)
def test_the_service_accepts_the_signatures(
    sqlite_store: SQLStore, clock: SettableClock, tmp_path: Path, key: RequestKey
) -> None:
    """Later, it takes a new signature of the same request."""
    container = build_container(sqlite_store, clock, tenants=signing_tenants(key))
    client = TestClient(create_app(container))
    signer = RequestSigner(
        write(tmp_path / "key", key.pem), key.key_id, "hotwallet", clock
    )
    first = submit(client, *map(signer, ROWS))
    old = [signer(row) for row in ROWS]
    clock.now += timedelta(minutes=6)
    late = submit(client, *old, **bearer(clock.now))
    again = submit(client, *map(signer, ROWS), **bearer(clock.now))
    changed = {**signer(ROWS[0]), "body": json.dumps(BODY | {"amount": "1"})}
    forged = submit(client, changed, **bearer(clock.now))

    assert statuses(first) == [201, 201]
    assert codes(late) == ["request-signature-invalid"] * 2
    assert statuses(again) == [200, 200]
    assert codes(forged) == ["request-signature-invalid"]


def _pem(key: Any, password: bytes | None = None) -> bytes:
    encryption = BestAvailableEncryption(password) if password else NoEncryption()
    pem: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    return pem


@pytest.mark.parametrize(
    ("content", "mode", "message"),
    [
        (ED25519.pem, 0o640, "others may read"),
        (b"", 0o600, "private key in PEM"),
        (ED25519.public.encode(), 0o600, "private key in PEM"),
        (_pem(P256.private, b"secret"), 0o600, "private key in PEM"),
        (_pem(ec.generate_private_key(ec.SECP384R1())), 0o600, "Ed25519 or ECDSA"),
        (_pem(rsa.generate_private_key(65537, 2048)), 0o600, "Ed25519 or ECDSA"),
    ],
    ids=["readable", "empty", "public", "password", "P-384", "RSA"],
)
def test_another_key_is_refused(
    tmp_path: Path, content: bytes, mode: int, message: str
) -> None:
    path = write(tmp_path / "key", content, mode)

    with pytest.raises(click.UsageError, match=message):
        RequestSigner(path, "k", "hotwallet")


@pytest.mark.parametrize("option", ["", "key", "=key", "id=", "id=missing"])
def test_a_key_has_an_id_and_a_file(
    hotwallet: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOTWALLET_TOKEN", "t")
    file = tmp_path / "refunds.csv"
    file.write_text(f"{','.join(BODY)}\n{','.join(BODY.values())}\n")
    finished = hotwallet(
        "refund", "submit", str(file), "--request-key", option, "--yes"
    )

    assert finished.status in {1, 2}
    assert ("ID=FILE" in finished.err) != (option == "id=missing")


def test_no_repr_has_the_key(tmp_path: Path) -> None:
    signer = RequestSigner(write(tmp_path / "key", ED25519.pem), "k", "hotwallet")

    assert repr(signer) == "RequestSigner()"


@pytest.mark.parametrize("claims", [None, [], {}, {"aud": 1}, {"aud": ["a", "b"]}])
def test_the_token_must_name_its_service(
    hotwallet: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, claims: Any
) -> None:
    """A signature names it too."""
    key = write(tmp_path / "key", ED25519.pem)
    payload = urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    text = "opaque" if claims is None else f"e30.{payload}.c2ln"
    monkeypatch.setenv("HOTWALLET_TOKEN", text)
    file = tmp_path / "refunds.csv"
    file.write_text(f"{','.join(BODY)}\n{','.join(BODY.values())}\n")
    finished = hotwallet(
        "refund", "submit", str(file), "--request-key", f"id={key}", "--yes"
    )

    assert "a JWT with one `aud`" in " ".join(finished.err.split())
