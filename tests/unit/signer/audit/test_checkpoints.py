"""Checkpoints are signed notes: parsed strictly, and never forged."""

import base64
import hashlib
import json
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from hypothesis import given
from hypothesis import strategies as st

from signer.audit.checkpoints import (
    CheckpointKey,
    Statement,
    Verifier,
    _key_id,
    parse,
    read_notes,
)
from signer.errors import ConfigurationError, InvalidInputError
from tests.support.audit import KEY, ORIGIN, START, VERIFIER, chain, checkpoint


HEAD = hashlib.sha256(b"head").digest()
NOTE = KEY.sign(ORIGIN, 7, HEAD, START).note


def test_verify_returns_what_was_signed() -> None:
    """A verified checkpoint states the origin, size, hash and time that were signed."""
    made = KEY.sign(ORIGIN, 7, HEAD, START)

    assert VERIFIER.verify(made.note) == Statement(ORIGIN, 7, HEAD, START)
    assert made.size == 7


def test_is_a_signed_note() -> None:
    """The note has the layout, key name and signature of c2sp.org/signed-note."""
    text, _, last = NOTE.rpartition("\n\n")
    dash, name, signature = last.removesuffix("\n").split(" ")
    public = load_pem_public_key(KEY.public_pem())
    raw = public.public_bytes(Encoding.Raw, PublicFormat.Raw)
    key_id = hashlib.sha256(f"{ORIGIN}\n\x01".encode() + raw).digest()[:4]
    decoded = base64.b64decode(signature)

    assert (dash, name) == ("\u2014", ORIGIN)
    assert text.split("\n")[:3] == [ORIGIN, "7", base64.b64encode(HEAD).decode()]
    assert decoded[:4] == key_id
    # Raises if it does not hold.
    public.verify(decoded[4:], f"{text}\n".encode())  # type: ignore[call-arg, union-attr]


def test_the_key_id_matches_the_go_implementation() -> None:
    """This key and its id are the example of golang.org/x/mod/sumdb/note."""
    encoded = base64.b64decode("ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW")
    key = Ed25519PublicKey.from_public_bytes(encoded[1:])

    assert _key_id("PeterNeumann", key).hex() == "c74f20a3"


@pytest.mark.parametrize(
    "note",
    [
        "",
        NOTE.removesuffix("\n"),
        f"\n{NOTE}",
        f"{NOTE}\n",
        NOTE.replace("\n", "\r\n"),
        NOTE.replace(f"{ORIGIN}\n7", f"{ORIGIN}\n07"),
        NOTE.replace(f"{ORIGIN}\n7", f"{ORIGIN}\n-7"),
        NOTE.replace(f"{ORIGIN}\n7", f"{ORIGIN}\n0"),
        NOTE.replace(f"{ORIGIN}\n7", f"{ORIGIN}\n\u0667"),
        NOTE.replace(f"{ORIGIN}\n7", f"{ORIGIN} x\n7"),
        NOTE.replace(f"{ORIGIN}\n7", "\n7"),
        NOTE.replace(ORIGIN, f"{ORIGIN}\ud800"),
        NOTE.replace("no Merkle tree", "a Merkle tree"),
        NOTE.replace("+00:00", "Z"),
        NOTE.replace("2026-01-01", "2026-02-31"),
        NOTE.replace("\u2014", "-"),
        NOTE.replace("\u2014 ", "\u2014  "),
        NOTE.rpartition("\u2014")[0],
        NOTE.replace("=\n", "\n"),
        f"{NOTE}\u2014 {ORIGIN} A\n",
        NOTE + "x" * 10_000,
        NOTE + NOTE.rpartition("\n\n")[2] * 16,
    ],
)
def test_rejects_malformed_notes(note: str) -> None:
    with pytest.raises(InvalidInputError):
        parse(note)
    with pytest.raises(InvalidInputError):
        VERIFIER.verify(note)


def test_rejects_base64_that_is_not_canonical() -> None:
    """Unused bits of the last character must be zero."""
    head = base64.b64encode(HEAD).decode()
    other = head[:-2] + chr(ord(head[-2]) + 1) + "="
    assert base64.b64decode(other) == HEAD

    with pytest.raises(InvalidInputError, match="canonical"):
        VERIFIER.verify(NOTE.replace(head, other))


@given(index=st.integers(0, len(NOTE) - 1), char=st.characters(max_codepoint=0x7F))
def test_any_changed_character_is_rejected(index: int, char: str) -> None:
    if char == NOTE[index]:
        return
    with pytest.raises(InvalidInputError):
        VERIFIER.verify(NOTE[:index] + char + NOTE[index + 1 :])


def test_ignores_signatures_of_unknown_keys() -> None:
    """An unknown signature is ignored; a note with only that does not verify."""
    other = CheckpointKey.generate()
    cosigned = NOTE + other.sign(ORIGIN, 7, HEAD, START).note.rpartition("\n\n")[2]

    assert VERIFIER.verify(cosigned).size == 7
    both = Verifier(KEY.public_pem(), other.public_pem())
    assert both.verify(NOTE).size == 7
    assert both.verify(other.sign(ORIGIN, 8, HEAD, START).note).size == 8

    assert Verifier(other.public_pem()).verify(cosigned).size == 7
    with pytest.raises(InvalidInputError, match="not signed by a trusted key"):
        Verifier(other.public_pem()).verify(NOTE)


def test_rejects_an_invalid_signature_of_a_known_key() -> None:
    """One invalid signature with a trusted name and key id rejects the note."""
    later = KEY.sign(ORIGIN, 7, HEAD, START + timedelta(days=1)).note
    mixed = NOTE + later.rpartition("\n\n")[2]

    with pytest.raises(InvalidInputError, match="forged"):
        VERIFIER.verify(mixed)


def test_a_text_is_signed_like_a_checkpoint() -> None:
    """It is valid for its origin and its bytes only."""
    text = f"{ORIGIN}\nanother kind\n"
    note = KEY.sign_text(ORIGIN, text)
    VERIFIER.verify_text(ORIGIN, text, note)
    other = CheckpointKey.generate()
    forged = note[:-6] + ("A" if note[-6] != "A" else "B") + note[-5:]

    for name, verifier, wanted, signed in (
        ("something else", VERIFIER, text + "x\n", note),
        ("something else", VERIFIER, text, note + "x"),
        ("not signed by a trusted key", Verifier(other.public_pem()), text, note),
        ("is forged", VERIFIER, text, forged),
    ):
        with pytest.raises(InvalidInputError, match=name):
            verifier.verify_text(ORIGIN, wanted, signed)
    with pytest.raises(InvalidInputError, match="not a checkpoint"):
        VERIFIER.verify(note)


@pytest.mark.parametrize("origin", ["", "a b", "a+b", "a\nb", "a\u2003b"])
def test_signs_only_valid_origins(origin: str) -> None:
    """An origin that a note cannot contain is refused, and so is an empty chain."""
    with pytest.raises(InvalidInputError):
        KEY.sign(origin, 7, HEAD, START)
    with pytest.raises(InvalidInputError):
        KEY.sign(ORIGIN, 0, HEAD, START)


def _written(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


def _private(key: object) -> bytes:
    return key.private_bytes(  # type: ignore[attr-defined, no-any-return]
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )


def test_loads_a_key_that_it_wrote(tmp_path: Path) -> None:
    loaded = CheckpointKey.load(_written(tmp_path / "key", KEY.private_pem()))

    assert loaded.sign(ORIGIN, 7, HEAD, START).note == NOTE
    assert "PRIVATE" not in repr(loaded)


class Device:
    """Has the key of the tests, and shows no private key."""

    _key = load_pem_private_key(KEY.private_pem(), password=None)

    def public_key(self) -> Ed25519PublicKey:
        assert isinstance(self._key, Ed25519PrivateKey)
        return self._key.public_key()

    def sign(self, data: bytes) -> bytes:
        assert isinstance(self._key, Ed25519PrivateKey)
        return self._key.sign(data)


def test_a_key_in_a_device(tmp_path: Path) -> None:
    """The file names it; a program that opens no devices refuses the file."""
    path = _written(tmp_path / "key", b"arn:aws:kms:eu-central-1:1:key/1\n")
    opened: list[str] = []

    def open_in_kms(arn: str) -> Device:
        opened.append(arn)
        return Device()

    loaded = CheckpointKey.load(path, open_in_kms)

    assert loaded.sign(ORIGIN, 7, HEAD, START).note == NOTE
    assert opened == ["arn:aws:kms:eu-central-1:1:key/1"]
    with pytest.raises(TypeError, match="in a device"):
        loaded.private_pem()
    with pytest.raises(ConfigurationError, match="not an unencrypted private key"):
        CheckpointKey.load(path)
    plain = _written(tmp_path / "plain", KEY.private_pem())
    assert CheckpointKey.load(plain, open_in_kms).public_pem() == KEY.public_pem()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_refuses_a_key_file_that_others_may_access(tmp_path: Path, mode: int) -> None:
    path = _written(tmp_path / "key", KEY.private_pem(), mode)

    with pytest.raises(ConfigurationError, match="chmod 600"):
        CheckpointKey.load(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0\xff",
        KEY.public_pem(),
        _private(ec.generate_private_key(ec.SECP256K1())),
        _private(ed448.Ed448PrivateKey.generate()),
        Ed25519PrivateKey.generate().private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
        ),
    ],
)
def test_only_ed25519_signs(tmp_path: Path, content: bytes) -> None:
    """A file without an unencrypted Ed25519 key is refused, and not quoted."""
    with pytest.raises(ConfigurationError, match="audit-misconfigured") as caught:
        CheckpointKey.load(_written(tmp_path / "key", content))

    assert str(tmp_path) not in str(caught.value)


def test_refuses_a_missing_file_and_a_directory(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path, Path("/dev/null")):
        with pytest.raises(ConfigurationError, match="audit-misconfigured"):
            CheckpointKey.load(path)


@pytest.mark.parametrize("pem", [b"", b"\0", KEY.private_pem()])
def test_only_public_keys_verify(pem: bytes) -> None:
    """A file without an Ed25519 public key is refused."""
    with pytest.raises(InvalidInputError, match="not an Ed25519 public key"):
        Verifier(pem)


NOTES = [checkpoint(chain(5), size).note for size in (2, 5)]
LOGGED = [
    json.dumps({"event": "audit-checkpoint", "size": size, "note": note})
    for size, note in zip((2, 5), NOTES, strict=True)
]
ALIKE = '{"event": "audit-checkpoint-of-another-key", "size": 2}'

KEPT = {
    "a note": (NOTES[1], NOTES[1:]),
    "a note without its last line feed": (NOTES[1].rstrip("\n"), NOTES[1:]),
    "a note with lines as on Windows": (
        "\ufeff" + NOTES[1].replace("\n", "\r\n"),
        NOTES[1:],
    ),
    "notes": ("".join(NOTES), NOTES),
    "notes with lines between": ("\n\n".join([*NOTES, ""]), NOTES),
    "a log": (f'{{"event":"x"}}\nnoise\n{ALIKE}\n{LOGGED[1]}\n', NOTES[1:]),
    "a log of containers": ("".join(f"api-1  | {line}\n" for line in LOGGED), NOTES),
    "a log with times": (f"2026-11-24T12:00:00Z {LOGGED[1]}", NOTES[1:]),
    "a log with labels": (f'{{app="hotwallet"}} {LOGGED[1]}\r\n', NOTES[1:]),
}


@pytest.mark.parametrize("form", KEPT)
def test_reads_each_form_of_a_kept_checkpoint(form: str) -> None:
    """The notes come back as they were signed, in the order of the file."""
    text, notes = KEPT[form]

    assert read_notes(text) == notes


NO_NOTE = "not a checkpoint"

NOT_KEPT = {
    "nothing": ("", NO_NOTE),
    "noise": ("noise", NO_NOTE),
    "quoted": (f"> {NOTES[0]}", NO_NOTE),
    "one of two spoilt": (NOTES[0] + NOTES[1].replace("Merkle", "merkle"), NO_NOTE),
    "an object": ('{"event": "x"}', "contains no checkpoint"),
    "another event": (
        f'{{"event": "x", "of": "audit-checkpoint"}}\n{ALIKE}',
        "contains no checkpoint",
    ),
    "a line cut off": (f"{LOGGED[0]}\n{LOGGED[1][:-9]}", "cut off: copy the log"),
    "a note in a log": (f"{LOGGED[0]}\n{NOTES[1]}", "put them into separate files"),
    "no opening": ('"audit-checkpoint"\n{"a": 1}', "cut off: copy the log"),
    "no note": ('{"event": "audit-checkpoint"}', NO_NOTE),
    "half a character": (
        LOGGED[0].replace("hotwallet/", "hotwallet/\\ud800"),
        NO_NOTE,
    ),
}


@pytest.mark.parametrize("form", NOT_KEPT)
def test_refuses_a_file_without_checkpoints(form: str) -> None:
    """The message names what is wrong with the file; a bad note hides no good one."""
    text, problem = NOT_KEPT[form]

    with pytest.raises(InvalidInputError, match=problem):
        read_notes(text)


@pytest.fixture
def usual_recursion_limit() -> Iterator[None]:
    """The interpreter's limit, which a library of the local chain raises."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(1000)
    yield
    sys.setrecursionlimit(limit)


@pytest.mark.usefixtures("usual_recursion_limit")
def test_refuses_a_line_that_is_nested_deeply() -> None:
    """Brackets that the parser cannot follow are an error about the file, no crash."""
    line = f'{{"a": {"[" * 100_000}"audit-checkpoint"'

    with pytest.raises(InvalidInputError, match="cut off: copy the log"):
        read_notes(line)
