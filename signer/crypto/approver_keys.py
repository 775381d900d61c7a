"""
The keys of approvers, and the signatures that they make of one text.

A key is a WebAuthn credential, whose public key is stored as browsers return it
(SubjectPublicKeyInfo), or a key of OpenSSH, whose agent or security key signs
(PROTOCOL.sshsig and PROTOCOL.u2f of OpenSSH).  Each is one line::

    webauthn CREDENTIAL-ID PUBLIC-KEY
    sk-ssh-ed25519@openssh.com AAAAGnNr...

So is a signature::

    webauthn:CREDENTIAL-ID:AUTHENTICATOR-DATA:CLIENT-DATA:SIGNATURE
    ssh:BLOB
"""

from __future__ import annotations

import binascii
import hashlib
from base64 import b64decode, urlsafe_b64decode, urlsafe_b64encode
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit

from signer import strict_json
from signer.errors import InvalidInputError


# The account of a library has no approvers, and no cryptography.
if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    PublicKey = EllipticCurvePublicKey | Ed25519PublicKey | RSAPublicKey


NAMESPACE = "hotwallet-approval"
"""What ``ssh-keygen -Y sign -n`` must name: no signature for another use counts."""

_WEBAUTHN, _SSH = "webauthn", "ssh"

_ARMOR = "-----BEGIN SSH SIGNATURE-----", "-----END SSH SIGNATURE-----"

_ED25519, _P256 = b"ssh-ed25519", b"ecdsa-sha2-nistp256"
_SK_ED25519 = b"sk-ssh-ed25519@openssh.com"
_SK_P256 = b"sk-ecdsa-sha2-nistp256@openssh.com"
_SECURITY_KEYS = {_SK_ED25519, _SK_P256}

_PRESENT, _VERIFIED, _EXTENDED = 0x01, 0x04, 0x80
"""Flags of authenticators: a person touched it, proved who they are; more follows."""

_HEAD = 37
"""The bytes of authenticator data: the hash of the RP id, flags, and the counter."""

_LEAST_RSA = 2048


@dataclass(frozen=True, slots=True)
class ApproverKey:
    """
    A public key of an approver; ``id`` is what its signatures name.

    ``scheme`` is that of its line.  Security keys sign for the name ``application``.
    """

    scheme: str
    id: str
    key: PublicKey = field(repr=False)
    application: bytes = b""

    @property
    def is_webauthn(self) -> bool:
        return self.scheme == _WEBAUTHN

    @property
    def public(self) -> bytes:
        """The key alone, in the one form of SubjectPublicKeyInfo (RFC 5280)."""
        from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415
            Encoding,
            PublicFormat,
        )

        return self.key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@dataclass(frozen=True, slots=True)
class ApproverSignature:
    """
    A signature in its stored form, and the id of the key that it names.

    ``counter`` is that of the authenticator, which it signs; 0 if it has none.
    """

    key_id: str
    text: str
    counter: int = 0


def parse_key(line: str) -> ApproverKey:
    """
    Return the key in *line*.

    Raises:
        ValueError: It is not the line of a WebAuthn credential, or of an Ed25519 or
            P-256 key of OpenSSH.
    """
    words = line.split()
    if words[:1] == [_WEBAUTHN] and len(words) == 3:  # noqa: PLR2004
        credential = encode(_decode(words[1]))
        key = _load_der(b64decode(words[2], validate=True))
        return ApproverKey(_WEBAUTHN, f"{_WEBAUTHN}:{credential}", key)
    if len(words) < 2:  # noqa: PLR2004
        raise ValueError("must be the line of a public key")
    blob = b64decode(words[1], validate=True)
    key, application = _read_ssh_key(blob)
    if _Reader(blob).string().decode() != words[0]:
        raise ValueError("the name of the key's type is not that of the key")
    return ApproverKey(words[0], _ssh_id(blob), key, application)


def parse_signature(text: str) -> ApproverSignature:
    """
    Return the signature in *text*: its line, or what ``ssh-keygen -Y sign`` writes.

    Raises:
        InvalidInputError: It is neither.
    """
    words = "".join(text.split("\n")).strip()
    begin, end = _ARMOR
    try:
        if words.startswith(begin) and words.endswith(end):
            blob = b64decode(words[len(begin) : -len(end)].strip(), validate=True)
            words = f"{_SSH}:{encode(blob)}"
        kind, *parts = words.split(":")
        if kind == _SSH and len(parts) == 1:
            ssh = _SSHSignature(_decode(parts[0]))
            return ApproverSignature(_ssh_id(ssh.public_key), words, ssh.counter)
        if kind == _WEBAUTHN and len(parts) == 4:  # noqa: PLR2004
            _, authenticator, *_ = map(_decode, parts)
            counter = int.from_bytes(authenticator[_HEAD - 4 : _HEAD])
            return ApproverSignature(f"{_WEBAUTHN}:{parts[0]}", words, counter)
    except ValueError:
        pass
    raise InvalidInputError(
        "must be a signature: what the approval page shows, or what `hotwallet"
        " approvals sign` or `ssh-keygen -Y sign` writes",
        field="signature",
    )


def verify(
    key: ApproverKey, signature: ApproverSignature, text: str, page: str
) -> None:
    """
    Require that *key* made *signature* of *text*.

    *page* is the URL of the page on which a browser signs: its origin is checked, and
    its host is the RP id.

    Raises:
        ValueError: It did not, or no person touched the authenticator.
    """
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415

    kind, *parts = signature.text.split(":")
    values = [_decode(each) for each in parts]
    try:
        if kind == _WEBAUTHN:
            _verify_webauthn(key, values, text, page)
        else:
            _verify_ssh(key, _SSHSignature(values[0]), text)
    except InvalidSignature:
        raise ValueError("the key did not sign this text") from None


def _verify_webauthn(
    key: ApproverKey, values: list[bytes], text: str, page: str
) -> None:
    """Verify an assertion: section 7.2 of WebAuthn Level 2, steps 11 to 21."""
    _, authenticator, client, signature = values
    parts = urlsplit(page)
    _check_client_data(client, text, f"{parts.scheme}://{parts.netloc}")
    if len(authenticator) < _HEAD:
        raise ValueError("the authenticator's data is cut off")
    flags, rest = authenticator[_HEAD - 5], authenticator[_HEAD:]
    if authenticator[:32] != hashlib.sha256((parts.hostname or "").encode()).digest():
        raise ValueError("the credential is of another site")
    if flags & (_PRESENT | _VERIFIED) != _PRESENT | _VERIFIED:
        raise ValueError("the authenticator did not verify a person")
    if bool(rest) is not bool(flags & _EXTENDED):
        raise ValueError("the authenticator's data has another length")
    _verify_bytes(key.key, signature, authenticator + hashlib.sha256(client).digest())


def _check_client_data(client: bytes, text: str, origin: str) -> None:
    """Require that the browser says which text was signed, where and for what."""
    try:
        found = strict_json.parse(client)
    except InvalidInputError:
        raise ValueError("the client data is not JSON") from None
    expected = {
        "type": "webauthn.get",
        "challenge": encode(hashlib.sha256(text.encode()).digest()),
        "origin": origin,
    }
    for name, value in expected.items():
        if found.get(name) != value:
            raise ValueError(f"the {name} is not that of this text and page")
    if found.get("crossOrigin", False) is not False or "topOrigin" in found:
        raise ValueError("another page showed the text in a frame")


def _verify_ssh(key: ApproverKey, found: _SSHSignature, text: str) -> None:
    signed = found.message(text)
    if key.application:
        hashed = hashlib.sha256(key.application).digest()
        trailer = found.flags.to_bytes() + found.counter.to_bytes(4)
        signed = hashed + trailer + hashlib.sha256(signed).digest()
        if not found.flags & _PRESENT:
            raise ValueError("no person touched the security key")
    _verify_bytes(key.key, found.signature, signed)


def _verify_bytes(key: PublicKey, signature: bytes, signed: bytes) -> None:
    """Raise ``InvalidSignature`` unless *key* made *signature*, for ECDSA in DER."""
    from cryptography.hazmat.primitives.asymmetric import (  # noqa: PLC0415
        ec,
        ed25519,
        padding,
    )
    from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415

    if isinstance(key, ed25519.Ed25519PublicKey):
        key.verify(signature, signed)
    elif isinstance(key, ec.EllipticCurvePublicKey):
        key.verify(signature, signed, ec.ECDSA(SHA256()))
    else:
        key.verify(signature, signed, padding.PKCS1v15(), SHA256())


def _load_der(der: bytes) -> PublicKey:
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import (  # noqa: PLC0415
        ec,
        ed25519,
        rsa,
    )
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415
        load_der_public_key,
    )

    key: object = None
    with suppress(UnsupportedAlgorithm):
        key = load_der_public_key(der)
    is_p256 = isinstance(key, ec.EllipticCurvePublicKey) and isinstance(
        key.curve, ec.SECP256R1
    )
    is_rsa = isinstance(key, rsa.RSAPublicKey) and key.key_size >= _LEAST_RSA
    if is_p256 or is_rsa or isinstance(key, ed25519.Ed25519PublicKey):
        return cast("PublicKey", key)
    raise ValueError("must be an Ed25519, a P-256 or a 2048-bit RSA key")


def _read_ssh_key(blob: bytes) -> tuple[PublicKey, bytes]:
    """Return the key in *blob*, and the application of a security key."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519  # noqa: PLC0415

    reader = _Reader(blob)
    kind = reader.string()
    key: PublicKey
    if kind in {_ED25519, _SK_ED25519}:
        key = ed25519.Ed25519PublicKey.from_public_bytes(reader.string())
    elif kind in {_P256, _SK_P256} and reader.string() == b"nistp256":
        point = reader.string()
        key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
    else:
        raise ValueError("must be an Ed25519 or P-256 key of OpenSSH")
    application = reader.string() if kind in _SECURITY_KEYS else b""
    # A security key signs for web sites as well: those are no names of this form.
    if kind in _SECURITY_KEYS and not application.startswith(b"ssh:"):
        raise ValueError("the application of the security key must begin with ssh:")
    reader.end()
    return key, application


class _SSHSignature:
    """The parts of an SSH signature; raises ``ValueError`` if it has another form."""

    def __init__(self, blob: bytes) -> None:
        if blob[:6] != b"SSHSIG" or blob[6:10] != (1).to_bytes(4):
            raise ValueError("not an SSH signature")
        reader = _Reader(blob[10:])
        self.public_key = reader.string()
        self._namespace, self._reserved = reader.string(), reader.string()
        self._hash = reader.string().decode()
        inner = _Reader(reader.string())
        reader.end()
        if self._namespace != NAMESPACE.encode():
            raise ValueError(f"its namespace must be {NAMESPACE}")
        if self._hash not in {"sha256", "sha512"}:
            raise ValueError("its hash must be SHA-256 or SHA-512")
        kind = inner.string()
        if kind != _Reader(self.public_key).string():
            raise ValueError("it is not one of its key")
        self.signature = inner.string()
        self.flags, self.counter = 0, 0
        if kind in _SECURITY_KEYS:
            self.flags, self.counter = inner.number(1), inner.number(4)
        inner.end()
        if kind in {_P256, _SK_P256}:
            self.signature = _to_der(self.signature)

    def message(self, text: str) -> bytes:
        """Return the bytes that sign *text*."""
        parts = self._namespace, self._reserved, self._hash.encode()
        digest = hashlib.new(self._hash, text.encode()).digest()
        return b"SSHSIG" + b"".join(
            len(each).to_bytes(4) + each for each in (*parts, digest)
        )


def _to_der(numbers: bytes) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.utils import (  # noqa: PLC0415
        encode_dss_signature,
    )

    reader = _Reader(numbers)
    r, s = (int.from_bytes(reader.string()) for _ in "rs")
    reader.end()
    return encode_dss_signature(r, s)


class _Reader:
    """Reads the encoding of SSH (RFC 4251); raises ``ValueError`` at its end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._place = 0

    def number(self, size: int) -> int:
        return int.from_bytes(self._take(size))

    def string(self) -> bytes:
        return self._take(self.number(4))

    def end(self) -> None:
        if self._place != len(self._data):
            raise ValueError("bytes follow the end")

    def _take(self, size: int) -> bytes:
        taken = self._data[self._place : self._place + size]
        if len(taken) != size:
            raise ValueError("it is cut off")
        self._place += size
        return taken


def _ssh_id(blob: bytes) -> str:
    return f"{_SSH}:{encode(blob)}"


def encode(data: bytes) -> str:
    """Return *data* in base64url (RFC 4648 section 5) without padding."""
    return urlsafe_b64encode(data).decode().rstrip("=")


def _decode(text: str) -> bytes:
    try:
        data = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error:
        raise ValueError("must be base64url") from None
    if not data or encode(data) != text:
        raise ValueError("must be base64url")
    return data
