"""``Sign`` is sent as boto3 does it: endpoint, SigV4, credentials, proxy, TLS."""

import hashlib
import hmac
import json
import os
import ssl
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backends.aws_kms.backend import KMSBackend
from backends.aws_kms.client import build_client, read_client_parts
from dev import kms_faults as faults
from dev.kms_emulator import KMSEmulator
from dev.kms_wire import Call, Faults
from signer.errors import AccessDeniedError, BackendUnavailableError
from signer.ports.key_backend import KeyId
from tests.fixtures.kms import OpenKMS, Wire
from tests.fixtures.tls_server import self_signed


DIGEST = bytes(range(32))

_SOURCE = """
import json, pathlib
count = pathlib.Path({count!r})
number = len(count.read_text()) if count.exists() else 0
count.write_text("x" * (number + 1))
made = {{
    "Version": 1,
    "AccessKeyId": f"AKIA{{number}}",
    "SecretAccessKey": f"secret-{{number}}",
    "SessionToken": f"token-{{number}}",
    "Expiration": {expiration!r},
}}
print(json.dumps(made))
"""


def _signature(call: Call, secret: str) -> str:
    """Return the SigV4 signature of *call*, by AWS's documentation and the stdlib."""
    authorization = call.headers["authorization"]
    parts = dict(
        part.split("=", 1)
        for part in authorization.removeprefix("AWS4-HMAC-SHA256 ").split(", ")
    )
    names = parts["SignedHeaders"].split(";")
    headers = "".join(f"{name}:{call.headers[name].strip()}\n" for name in names)
    request = "\n".join(
        [
            "POST",
            "/",
            "",
            headers,
            ";".join(names),
            hashlib.sha256(call.body).hexdigest(),
        ]
    )
    _, *scope = parts["Credential"].split("/")
    text = "\n".join(
        [
            "AWS4-HMAC-SHA256",
            call.headers["x-amz-date"],
            "/".join(scope),
            hashlib.sha256(request.encode()).hexdigest(),
        ]
    )
    key = f"AWS4{secret}".encode()
    for part in (*scope, text):
        key = hmac.digest(key, part.encode(), "sha256")
    return f"{parts['Signature']} {key.hex()}"


def test_requests_are_signed(
    kms: KMSBackend, kms_key: KeyId, kms_emulator: KMSEmulator
) -> None:
    """The signature covers body, host, operation and time."""
    kms.sign_digest(kms_key, DIGEST)

    call = kms_emulator.journal[-1]
    sent, calculated = _signature(call, "testing").split()
    assert sent == calculated
    covered = call.headers["authorization"].partition("SignedHeaders=")[2]
    assert {"host", "x-amz-date", "x-amz-target"} <= set(
        covered.partition(",")[0].split(";")
    )
    sent_at = datetime.fromisoformat(call.headers["x-amz-date"])
    assert abs(datetime.now(UTC) - sent_at) < timedelta(minutes=1)


def test_cloudtrail_sees_the_same_client(
    kms: KMSBackend, kms_key: KeyId, kms_emulator: KMSEmulator
) -> None:
    """User agent, content type and scope are those of a call of boto3."""
    kms.public_key(kms_key)
    kms.sign_digest(kms_key, DIGEST)
    theirs, ours = list(kms_emulator.journal)[-2:]

    assert ours.region == theirs.region
    for name in ("user-agent", "content-type", "host"):
        assert ours.headers[name] == theirs.headers[name]


@pytest.mark.parametrize(
    ("region", "environment", "url"),
    [
        ("eu-central-1", {}, "https://kms.eu-central-1.amazonaws.com/"),
        ("cn-north-1", {}, "https://kms.cn-north-1.amazonaws.com.cn/"),
        (
            "us-east-1",
            {"AWS_USE_FIPS_ENDPOINT": "true"},
            "https://kms-fips.us-east-1.amazonaws.com/",
        ),
        (
            "us-east-1",
            {"AWS_USE_DUALSTACK_ENDPOINT": "true"},
            "https://kms.us-east-1.api.aws/",
        ),
    ],
)
def test_botocore_chooses_the_endpoint(
    aws_environment: None,
    monkeypatch: pytest.MonkeyPatch,
    region: str,
    environment: Mapping[str, str],
    url: str,
) -> None:
    """Partition, FIPS and dual stack are its rules; no credentials are needed."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    assert read_client_parts(build_client(region, None, 3, 9_000, 1)).url == url


def test_a_dry_run_leaves_no_trace(
    kms_emulator: KMSEmulator, kms_key: KeyId, wire: Wire
) -> None:
    """Nothing is sent, and the client works as before."""
    client = build_client("eu-central-1", kms_emulator.endpoint, 1, 9_000, 1)
    read_client_parts(client)
    read_client_parts(client)
    assert wire() == []

    assert client.get_public_key(KeyId=kms_key)["KeyId"] == kms_key
    client.close()


def test_requests_go_through_the_proxy(
    open_kms: OpenKMS,
    kms_key: KeyId,
    kms_emulator: KMSEmulator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The emulator is the proxy, for a host that does not exist."""
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("HTTP_PROXY", kms_emulator.endpoint)

    assert open_kms(endpoint="http://kms.invalid").sign_digest(kms_key, DIGEST).der
    assert kms_emulator.journal[-1].headers["host"] == "kms.invalid"


@pytest.fixture
def tls_emulator(kms_emulator: KMSEmulator, tmp_path: Path) -> Iterator[str]:
    """The URL of an emulator with a certificate that ``fullchain.pem`` has."""
    self_signed(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "fullchain.pem", tmp_path / "privkey.pem")
    emulator = KMSEmulator()
    emulator._server.socket = context.wrap_socket(
        emulator._server.socket, server_side=True
    )
    with emulator:
        yield emulator.endpoint.replace("http:", "https:")


@pytest.mark.parametrize("is_trusted", [True, False])
def test_certificates_are_verified(
    open_kms: OpenKMS,
    kms_key: KeyId,
    tls_emulator: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    is_trusted: bool,
) -> None:
    """With the authorities of AWS_CA_BUNDLE."""
    if is_trusted:
        monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "fullchain.pem"))
    kms = open_kms(endpoint=tls_emulator)

    if is_trusted:
        assert kms.sign_digest(kms_key, DIGEST).der
    else:
        with pytest.raises(BackendUnavailableError, match="SSLError"):
            kms.sign_digest(kms_key, DIGEST)


@pytest.fixture
def expiring_credentials(
    aws_environment: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A source of credentials that expire in a minute: botocore refreshes them."""
    source = tmp_path / "source.py"
    expiration = (datetime.now(UTC) + timedelta(minutes=1)).isoformat()
    source.write_text(
        _SOURCE.format(count=str(tmp_path / "count"), expiration=expiration)
    )
    configuration = tmp_path / "config"
    configuration.write_text(
        f"[default]\ncredential_process = {sys.executable} {source}\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(configuration))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")


def test_credentials_are_refreshed_between_signatures(
    expiring_credentials: None,
    open_kms: OpenKMS,
    kms_key: KeyId,
    kms_emulator: KMSEmulator,
) -> None:
    """K19: each request is signed with the credentials of its moment."""
    kms = open_kms()
    for _ in range(3):
        kms.sign_digest(kms_key, DIGEST)

    tokens = []
    for call in list(kms_emulator.journal)[-3:]:
        token = call.headers["x-amz-security-token"]
        number = token.removeprefix("token-")
        sent, calculated = _signature(call, f"secret-{number}").split()
        assert sent == calculated
        assert f"Credential=AKIA{number}/" in call.headers["authorization"]
        tokens.append(token)
    assert len(set(tokens)) == 3


def test_expired_credentials_are_replaced_after_the_error(
    expiring_credentials: None, open_kms: OpenKMS, kms_key: KeyId, kms_faults: Faults
) -> None:
    kms_faults.on("Sign", faults.expired_token())
    kms = open_kms()

    with pytest.raises(AccessDeniedError, match="ExpiredTokenException"):
        kms.sign_digest(kms_key, DIGEST)
    assert kms.sign_digest(kms_key, DIGEST).der


def test_a_wrong_clock_is_an_error(
    open_kms: OpenKMS, kms_key: KeyId, kms_faults: Faults, wire: Wire
) -> None:
    """KMS refuses times that are 5 minutes off; another attempt would not help."""
    kms_faults.always(
        "Sign",
        faults.refuse(
            "InvalidSignatureException",
            "Signature expired: 20260101T000000Z is earlier",
        ),
    )

    with pytest.raises(AccessDeniedError, match="InvalidSignatureException"):
        open_kms().sign_digest(kms_key, DIGEST)
    assert wire() == ["Sign"]


def test_a_body_is_json_of_strings(
    kms: KMSBackend, kms_key: KeyId, kms_emulator: KMSEmulator
) -> None:
    """Any digest is encoded."""
    for digest in (bytes(32), b"\xff" * 32, os.urandom(32)):
        kms.sign_digest(kms_key, digest)

        members = json.loads(kms_emulator.journal[-1].body)
        assert {type(value) for value in members.values()} == {str}
