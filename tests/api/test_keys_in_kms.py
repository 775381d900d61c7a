"""Keys in KMS of row MACs and of checkpoints: on two emulators, and a KMS that lies."""

import base64
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import boto3  # type: ignore[import-untyped]
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from api.backend_factories import derive_mac_key, load_checkpoint_key, open_row_macs
from api.cli.audit import create_key
from api.key_files import (
    activate_mac_key,
    add_mac_key,
    create_mac_key,
)
from backends.aws_kms import service_keys
from dev.kms_emulator import KMSEmulator
from signer.audit.checkpoints import Verifier
from signer.config.settings import Settings
from signer.errors import BackendError, BackendUnavailableError, ConfigurationError
from signer.model.audit_record import Record
from tests.fixtures.plain_server import Reply, reply_server
from tests.support.audit import START


RECORD = Record("au_1", "{}")
ARN = "arn:aws:kms:eu-central-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"
KEY = Ed25519PrivateKey.generate()
PUBLIC = KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def settings(endpoint: str, **others: str) -> Settings:
    # The second emulator is slow beside other tests.
    slow = {"KMS_TIMEOUT_MS": "60000"}
    environ = {"APP_ENV": "development", "AWS_ENDPOINT_URL_KMS": endpoint, **slow}
    return Settings.from_env({**environ, **others})


def new_key(endpoint: str, spec: str, usage: str) -> str:
    client = boto3.client("kms", KMSEmulator.region, endpoint_url=endpoint)
    made = client.create_key(KeySpec=spec, KeyUsage=usage)["KeyMetadata"]
    arn: str = made["Arn"]
    return arn


@pytest.fixture(params=["kms_emulator", "ministack"])
def endpoint(request: pytest.FixtureRequest) -> str:
    if request.param == "ministack":
        return str(request.getfixturevalue("ministack_endpoint"))
    return str(request.getfixturevalue("kms_emulator").endpoint)


def test_a_key_of_macs_is_in_kms(endpoint: str, tmp_path: Path) -> None:
    """The file has no secret, and is rotated as one with keys; hosts agree."""
    first, second = (new_key(endpoint, "HMAC_256", "GENERATE_VERIFY_MAC") for _ in "12")
    out = tmp_path / "mac.key"
    configured = settings(endpoint, MAC_KEY_FILE=str(out))
    derive = partial(derive_mac_key, configured)
    create_mac_key(out, first, derive)
    before = open_row_macs(configured)
    add_mac_key(out, second, derive)
    changed = activate_mac_key(out, derive)
    after = open_row_macs(configured)

    assert before is not None
    assert after is not None
    old, new = before.compute(RECORD), after.compute(RECORD)
    assert after.is_valid(old, RECORD)
    assert not before.is_valid(new, RECORD)
    assert new.startswith("2-")
    assert changed.action == "activated"
    lines = [line.split(" ") for line in out.read_text().splitlines()]
    assert [arn for _, arn in lines] == [second, first]
    # Another process asks again, and gets the same.
    service_keys.derive_mac_key.cache_clear()
    again = open_row_macs(configured)
    assert again is not None
    assert again.compute(RECORD) == new
    swapped = f"{lines[0][0]} {first}\n"
    out.write_text(swapped)
    with pytest.raises(ConfigurationError, match="an id is of another key"):
        open_row_macs(configured)


def test_a_checkpoint_is_signed_in_kms(ministack_endpoint: str, tmp_path: Path) -> None:
    """By an Ed25519 key, as any verifier of checkpoints expects."""
    arn = new_key(ministack_endpoint, "ECC_NIST_EDWARDS25519", "SIGN_VERIFY")
    configured, out = settings(ministack_endpoint), tmp_path / "audit.key"
    public, _ = create_key(out, configured, arn)

    key = load_checkpoint_key(configured, out)
    made = key.sign("hotwallet/test", 7, bytes(32), START)

    assert out.read_text() == f"{arn}\n"
    assert Verifier(public.read_bytes()).verify(made.note).size == 7
    with pytest.raises(TypeError):
        key.private_pem()


def test_another_kind_of_key_is_refused(
    ministack_endpoint: str, tmp_path: Path
) -> None:
    arn = new_key(ministack_endpoint, "ECC_NIST_P256", "SIGN_VERIFY")
    configured = settings(ministack_endpoint)
    file = tmp_path / "audit.key"
    file.touch(0o600)
    file.write_text(f"{arn}\n")

    with pytest.raises(ConfigurationError, match="is not an Ed25519 key"):
        load_checkpoint_key(configured, file)
    file.write_text("arn:aws:kms:alias/short\n")
    with pytest.raises(ConfigurationError, match="not the full ARN of a KMS key"):
        load_checkpoint_key(configured, file)
    file.unlink()
    with pytest.raises(ConfigurationError, match="is not an Ed25519 key"):
        create_key(file, configured, arn)
    assert [*tmp_path.iterdir()] == []
    with pytest.raises(ConfigurationError, match="GenerateMac failed"):
        derive_mac_key(configured, arn)
    with pytest.raises(ConfigurationError, match="not the full ARN of a KMS key"):
        derive_mac_key(configured, "arn:aws:kms:alias/short")


@contextmanager
def lying(answer: Callable[[dict[str, Any]], tuple[int, object]]) -> Iterator[Settings]:
    def reply(body: bytes) -> Reply:
        status, document = answer(json.loads(body))
        return status, {}, json.dumps(document).encode()

    with reply_server(reply) as server:
        yield settings(server.url, KMS_TIMEOUT_MS="5000", KMS_MAX_RETRIES="1")


@pytest.mark.parametrize("mac", [None, "", base64.b64encode(bytes(31)).decode()])
def test_a_short_key_is_refused(aws_environment: None, mac: str | None) -> None:
    """Each process would make MACs that anyone can make."""
    with (
        lying(lambda _: (200, {} if mac is None else {"Mac": mac})) as configured,
        pytest.raises(ConfigurationError, match="returned no HMAC-SHA-256"),
    ):
        derive_mac_key(configured, ARN)


def test_an_outage_is_no_refusal(aws_environment: None) -> None:
    """The process ends with an error that a supervisor repeats."""
    with (
        lying(lambda _: (503, {"__type": "KMSInternalException"})) as configured,
        pytest.raises(BackendUnavailableError),
    ):
        derive_mac_key(configured, ARN)


@pytest.mark.parametrize(
    "signature",
    [None, bytes(64), KEY.sign(b"another text"), b"short"],
    ids=["missing", "zeros", "of another text", "short"],
)
def test_a_false_signature_is_refused(
    aws_environment: None, signature: bytes | None
) -> None:
    """Every signature is verified before it is stored."""

    def answer(body: dict[str, Any]) -> tuple[int, object]:
        if "Message" not in body:
            return 200, {"PublicKey": base64.b64encode(PUBLIC).decode()}
        if signature is None:
            return 200, {}
        return 200, {"Signature": base64.b64encode(signature).decode()}

    with lying(answer) as configured:
        key = service_keys.KMSEd25519Key(ARN, configured.kms_endpoint, 5000)

        with pytest.raises(BackendError, match="no signature of the key"):
            key.sign(b"a text")
