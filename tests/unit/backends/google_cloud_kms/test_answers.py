"""Answers of Google Cloud KMS that are damaged, or of another key."""

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from backends.google_cloud_kms.answers import crc32c
from backends.google_cloud_kms.backend import GoogleCloudKMSBackend
from dev import google_kms_faults as google
from dev import kms_faults as faults
from dev.google_kms_emulator import PUBLIC_KEY, RING, SIGN, GoogleKMSEmulator
from dev.google_kms_keys import checksum
from dev.kms_wire import Fault, Faults
from signer.errors import (
    BackendError,
    BackendUnavailableError,
    EncodingError,
    KeyUnusableError,
    SigningError,
)
from signer.keys.signer import Signer
from signer.ports.key_backend import KeyId
from tests.support.devices import recording


DIGEST = bytes(range(32))


def test_the_checksum_is_crc32c() -> None:
    """The examples of RFC 3720, appendix B.4: 32 bytes of 0, of 255, and ascending."""
    given = [crc32c(bytes(32)), crc32c(b"\xff" * 32), crc32c(bytes(range(32)))]

    assert given == [0x8A9136AA, 0x62A8AB43, 0x46DD794E]


DAMAGED: dict[str, Fault] = {
    "signature checksum": google.altered(signatureCrc32c="1"),
    "no signature checksum": google.altered(signatureCrc32c=None),
    "signature checksum is a number": google.altered(signatureCrc32c=1),
    "digest not verified": google.altered(verifiedDigestCrc32c=False),
    "digest perhaps verified": google.altered(verifiedDigestCrc32c=None),
    "digest verified in words": google.altered(verifiedDigestCrc32c="true"),
    "no signature": google.altered(signature=None),
    "signature is a list": google.altered(signature=["x"]),
    "signature is not base64": google.altered(signature="***"),
    "no JSON": faults.body(b"{"),
    "JSON of another type": faults.body(b"[1]"),
    "deep JSON": faults.body(b"[" * 20_000),
    "empty": faults.body(b""),
}


@pytest.mark.parametrize("fault", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_answer_is_asked_for_again(
    *,
    google_cloud_kms: GoogleCloudKMSBackend,
    google_cloud_kms_key: KeyId,
    google_kms_faults: Faults,
    fault: Fault,
) -> None:
    """As Google asks of clients: discard it, and repeat a limited number of times."""
    google_kms_faults.on(SIGN, fault)
    repeated = google_cloud_kms.sign_digest(google_cloud_kms_key, DIGEST)
    google_kms_faults.on(SIGN, fault, times=3)

    with pytest.raises(BackendUnavailableError, match="damaged") as caught:
        google_cloud_kms.sign_digest(google_cloud_kms_key, DIGEST)

    assert repeated.attempts == 2
    assert caught.value.attempts == 3


WRONG: dict[str, tuple[Fault, type[SigningError]]] = {
    "another version": (
        google.altered(name=f"{RING}/cryptoKeys/refunds/cryptoKeyVersions/77"),
        BackendError,
    ),
    "no name": (google.altered(name=None), BackendError),
    "software": (google.altered(protectionLevel="SOFTWARE"), KeyUnusableError),
    "no protection level": (google.altered(protectionLevel=None), KeyUnusableError),
}


@pytest.mark.parametrize("operation", [SIGN, PUBLIC_KEY])
@pytest.mark.parametrize(("fault", "error"), WRONG.values(), ids=WRONG)
def test_an_answer_of_another_key_is_refused(
    *,
    google_cloud_kms: GoogleCloudKMSBackend,
    google_cloud_kms_key: KeyId,
    google_kms_faults: Faults,
    operation: str,
    fault: Fault,
    error: type[SigningError],
) -> None:
    """Once: the same request would be answered in the same way."""
    google_kms_faults.on(operation, fault)
    ask = (
        (lambda: google_cloud_kms.sign_digest(google_cloud_kms_key, DIGEST))
        if operation == SIGN
        else (lambda: google_cloud_kms.public_key(google_cloud_kms_key))
    )

    with pytest.raises(error) as caught:
        ask()

    assert type(caught.value) is error
    assert google_cloud_kms_key not in str(caught.value)


def _pem(curve: ec.EllipticCurve) -> str:
    public = ec.generate_private_key(curve).public_key()
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def test_a_damaged_public_key_is_asked_for_again(
    google_cloud_kms: GoogleCloudKMSBackend,
    google_cloud_kms_key: KeyId,
    google_kms_faults: Faults,
) -> None:
    expected = google_cloud_kms.public_key(google_cloud_kms_key)
    for fault in (
        google.altered(pem=_pem(ec.SECP256K1())),
        google.altered(pem=None),
        google.altered(pem=7),
        google.altered(pemCrc32c=None),
    ):
        google_kms_faults.on(PUBLIC_KEY, fault)

        assert google_cloud_kms.public_key(google_cloud_kms_key) == expected


PEMS = {
    "empty": "",
    "no key": "-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----\n",
    "damaged": _pem(ec.SECP256K1()).replace("M", "", 1),
    "truncated": _pem(ec.SECP256K1())[:80],
    "of another kind": _pem(ec.SECP256K1()).replace("PUBLIC", "PRIVATE"),
    "no text": "\ud800",
}


@pytest.mark.parametrize("text", PEMS.values(), ids=PEMS)
def test_a_pem_that_is_no_public_key_is_refused(
    google_cloud_kms: GoogleCloudKMSBackend,
    google_cloud_kms_key: KeyId,
    google_kms_faults: Faults,
    text: str,
) -> None:
    """A truncated, empty or other PEM, even with a correct checksum."""
    encoded = text.encode("utf-8", "surrogatepass")
    google_kms_faults.on(
        PUBLIC_KEY, google.altered(pem=text, pemCrc32c=checksum(encoded))
    )

    with pytest.raises(EncodingError):
        google_cloud_kms.public_key(google_cloud_kms_key)


def test_a_key_of_another_curve_is_refused(
    google_cloud_kms: GoogleCloudKMSBackend,
    google_cloud_kms_key: KeyId,
    google_kms_emulator: GoogleKMSEmulator,
    google_kms_faults: Faults,
) -> None:
    """By its algorithm, and by the point if Google names the wrong algorithm."""
    p256 = google_kms_emulator.create_version(algorithm="EC_SIGN_P256_SHA256")
    google_kms_faults.on(PUBLIC_KEY, google.altered(pem=_pem(ec.SECP256R1())))

    with pytest.raises(KeyUnusableError, match="EC_SIGN_SECP256K1_SHA256"):
        google_cloud_kms.resolve(p256)
    google_kms_faults.clear()
    google_kms_faults.on(PUBLIC_KEY, google.pem(_pem(ec.SECP256R1())))
    with pytest.raises(EncodingError):
        Signer.open(google_cloud_kms, google_cloud_kms_key, recording()[0])
