"""Keys of approvers and their signatures: WebAuthn and OpenSSH, and their forgeries."""

import subprocess
from base64 import b64decode, b64encode
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from signer.crypto import approver_keys
from signer.crypto.approver_keys import NAMESPACE, parse_key, parse_signature
from signer.errors import InvalidInputError
from tests.support.approvers import (
    ED25519,
    P256,
    PAGE,
    RSA,
    AnyKey,
    Authenticator,
    OpenSSH,
    SSHKey,
    armor,
    encode,
    security_key,
    string,
)


TEXT = "hotwallet approval 1\napprover: alice\n"

KEYS: dict[str, Callable[[], AnyKey]] = {
    "ES256": Authenticator,
    "EdDSA": lambda: Authenticator(ED25519()),
    "RS256": lambda: Authenticator(RSA()),
    "extensions": lambda: Authenticator(flags=0x85, extensions=b"\xa0"),
    "ssh-ed25519": SSHKey,
    "ecdsa-sha2-nistp256": lambda: SSHKey(P256(), hash="sha256"),
    "sk-ssh-ed25519": security_key,
    "sk-ecdsa-sha2-nistp256": lambda: security_key(P256, counter=7),
}


def verify(key: AnyKey, signature: str, text: str = TEXT, page: str = PAGE) -> None:
    approver_keys.verify(parse_key(key.line), parse_signature(signature), text, page)


@pytest.mark.parametrize("make", KEYS.values(), ids=KEYS)
def test_a_signature_names_its_key_and_fits_one_text(
    make: Callable[[], AnyKey],
) -> None:
    """It is stored on one line, which is read again."""
    key = make()
    signature = key.sign(TEXT)
    found = parse_signature(signature)
    verify(key, signature)
    verify(key, found.text)

    assert parse_signature(found.text) == found
    assert found.key_id == parse_key(key.line).id
    assert "\n" not in found.text
    for other in (TEXT.replace("alice", "bob"), TEXT[:-1], ""):
        with pytest.raises(ValueError, match="this text"):
            verify(key, signature, other)


@pytest.mark.parametrize(
    ("make", "counter"), [(lambda: Authenticator(counter=9), 9), (security_key, 1)]
)
def test_the_counter_is_read(make: Callable[[], AnyKey], counter: int) -> None:
    assert parse_signature(make().sign(TEXT)).counter == counter


@pytest.mark.needs("ssh-keygen")
@pytest.mark.parametrize("kind", ["ed25519", "ecdsa"])
def test_openssh_signs(tmp_path: Path, kind: str) -> None:
    """A key of a real ``ssh-keygen``."""
    key = OpenSSH.generate(tmp_path / "key", kind)
    verify(key, key.sign(TEXT))


@pytest.mark.needs("ssh-keygen")
@pytest.mark.parametrize("name", [name for name in KEYS if "-" in name])
def test_openssh_accepts_what_the_tests_sign(tmp_path: Path, name: str) -> None:
    """So the form of security keys, which no test machine has, is that of OpenSSH."""
    key = KEYS[name]()
    (tmp_path / "signers").write_text(f"alice {key.line}\n")
    (tmp_path / "signature").write_text(key.sign(TEXT))
    subprocess.run(
        f"ssh-keygen -Y verify -f signers -I alice -n {NAMESPACE} -s signature".split(),
        input=TEXT,
        text=True,
        cwd=tmp_path,
        check=True,
        timeout=30,
    )


LIES: dict[str, Authenticator | SSHKey] = {
    "registration": Authenticator(client={"type": "webauthn.create"}),
    "another origin": Authenticator(client={"origin": "https://approve.example.evil"}),
    "another scheme": Authenticator(client={"origin": "http://approve.example"}),
    "in a frame": Authenticator(client={"crossOrigin": True}),
    "in a frame of": Authenticator(client={"topOrigin": "https://evil.example"}),
    "a challenge of its own": Authenticator(client={"challenge": "AAAA"}),
    "another site": Authenticator(site="evil.example"),
    "no person": Authenticator(flags=0x00),
    "no verification": Authenticator(flags=0x01),
    "no presence": Authenticator(flags=0x04),
    "bytes without a flag": Authenticator(extensions=b"\xa0"),
    "a flag without bytes": Authenticator(flags=0x85),
    "no touch": security_key(flags=0x00),
}


@pytest.mark.parametrize("key", LIES.values(), ids=LIES)
def test_what_a_browser_or_security_key_did_not_check_counts_for_nothing(
    key: Authenticator | SSHKey,
) -> None:
    """The signature itself is valid."""
    with pytest.raises(
        ValueError, match=r"person|not that of|site|frame|length|touched"
    ):
        verify(key, key.sign(TEXT))


def test_the_page_has_a_port() -> None:
    key = Authenticator(client={"origin": "http://localhost:8000"}, site="localhost")
    verify(key, key.sign(TEXT), page="http://localhost:8000/approve.html")


@pytest.mark.parametrize("part", range(1, 4), ids=["data", "client", "signature"])
@pytest.mark.parametrize(
    "change",
    [lambda data: data[:-1], lambda data: data[:3], lambda data: data + b"1"],
    ids=["one less", "three", "one more"],
)
def test_a_changed_part_of_an_assertion_is_refused(
    part: int, change: Callable[[bytes], bytes]
) -> None:
    key = Authenticator()
    parts = key.sign(TEXT).split(":")
    decoded = b64decode(parts[part + 1] + "==", altchars=b"-_")
    parts[part + 1] = encode(change(decoded))
    with pytest.raises(ValueError, match=r"JSON|cut off|length|this text"):
        verify(key, ":".join(parts))


def test_a_key_signs_only_for_its_own_line() -> None:
    """Also if the other line claims its id."""
    key = Authenticator()
    other = Authenticator(credential=key.credential)
    with pytest.raises(ValueError, match="this text"):
        verify(other, key.sign(TEXT))


def _blob(key: SSHKey) -> bytes:
    return b64decode("".join(key.sign(TEXT).splitlines()[1:-1]))


def _begin(blob: bytes) -> str:
    return armor(blob)


SSH = SSHKey()

UNREADABLE: dict[str, str] = {
    "nothing": "",
    "a word": "yes",
    "another kind": "gpg:AAAA",
    "parts are missing": "webauthn:AAAA:AAAA",
    "no base64url": "webauthn:AA+A:AAAA:AAAA:AAAA",
    "another length": "ssh:AAAAA",
    "an empty part": "webauthn::AAAA:AAAA:AAAA",
    "other bits": "ssh:AB",
    "no signature": _begin(b"SSHKEY"),
    "another version": _begin(_blob(SSH)[:6] + (2).to_bytes(4) + _blob(SSH)[10:]),
    "cut off": _begin(_blob(SSH)[:-1]),
    "bytes follow": _begin(_blob(SSH) + b"1"),
    "another namespace": replace(SSH, namespace="file").sign(TEXT),
    "another hash": replace(SSH, hash="sha1").sign(TEXT),
    "no base64": "-----BEGIN SSH SIGNATURE-----*-----END SSH SIGNATURE-----",
    "of another kind of key": _begin(
        _blob(SSH).replace(b"ssh-ed25519", b"ssh-ed25518", 1)
    ),
}


@pytest.mark.parametrize("text", UNREADABLE.values(), ids=UNREADABLE)
def test_another_form_of_a_signature_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError, match="must be a signature"):
        parse_signature(text)


def _webauthn(key: Any) -> str:
    return Authenticator(key).line


BAD_LINES: dict[str, str] = {
    "nothing": "",
    "a word": "ssh-ed25519",
    "no base64": "ssh-ed25519 *",
    "no key": f"ssh-ed25519 {b64encode(string(b'ssh-ed25519')).decode()}",
    "another type": SSHKey().line.replace("ssh-ed25519", "ecdsa-sha2-nistp256"),
    "RSA of OpenSSH": f"ssh-rsa {b64encode(string(b'ssh-rsa')).decode()}",
    "bytes follow": "ssh-ed25519 " + b64encode(SSHKey().blob + b"1").decode(),
    "an application of a web site": security_key(application=b"https://a.example").line,
    "a small RSA key": _webauthn(rsa.generate_private_key(65537, 1024)),
    "another curve": _webauthn(ec.generate_private_key(ec.SECP384R1())),
    "no DER": "webauthn AAAA AAAA",
    "an unknown algorithm": "webauthn AAAA MAswBQYDKgMEAwIAAA==",
    "no credential": Authenticator().line.replace("webauthn ", "webauthn * "),
}


@pytest.mark.parametrize("line", BAD_LINES.values(), ids=BAD_LINES)
def test_another_line_is_no_key(line: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  Of several libraries.
        parse_key(line)
