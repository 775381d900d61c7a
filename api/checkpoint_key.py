"""The key that checkpoints are signed with: where it is from, and whose it is not."""

import os
from contextlib import suppress
from pathlib import Path

from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)

from api.auth.verification_keys import KeySource
from signer.audit.checkpointer import CheckpointSettings
from signer.audit.checkpoints import CheckpointKey
from signer.config.settings import Settings
from signer.crypto.der import encode_public_key
from signer.crypto.secp256k1 import PublicKey
from signer.errors import ConfigurationError, Refusal
from signer.private_files import write_whole
from signer.startup.guard import check_audit_key


def open_signing(settings: Settings) -> CheckpointSettings | None:
    """
    Return how checkpoints are signed; None where production has no key for it.

    Elsewhere a key is made under ``HOTWALLET_HOME``.

    Raises:
        ConfigurationError: ``audit-misconfigured``.
    """
    path = settings.audit_signing_key_file
    if path is None and settings.is_production:
        return None  # The guard has said so.
    try:
        key = (
            provided(settings.home / "audit.pem")
            if path is None
            else CheckpointKey.load(path)
        )
    except OSError as e:
        problem = Refusal(
            "audit-misconfigured",
            f"no key for checkpoints can be made ({type(e).__name__})",
        )
    else:
        return CheckpointSettings(key, f"hotwallet/{settings.audit_origin}")
    raise ConfigurationError(problem)


def provided(path: Path) -> CheckpointKey:
    """
    Return the key at *path*, made there if there is none.

    Any number of processes may do so at once, and die in the middle: a key appears
    whole or not at all, and the first one stays.

    Raises:
        ConfigurationError: ``audit-misconfigured``.
        OSError: No file can be made there.
    """
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with suppress(FileExistsError):
            # Linking fails where renaming would replace another process's key.
            write_whole(path, CheckpointKey.generate().private_pem(), os.link)
    return CheckpointKey.load(path)


def require_of_its_own(
    signing: CheckpointSettings, keys: KeySource | None, wallet: PublicKey
) -> None:
    """
    Make sure that nobody who may pay, or mint tokens, vouches for the audit.

    Raises:
        ConfigurationError: ``audit-key-shared``.
    """
    pem = load_pem_public_key(signing.key.public_pem())
    audit = pem.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    check_audit_key(
        audit,
        () if keys is None else _spkis(keys),
        encode_public_key(wallet.uncompressed),
    )


def _spkis(keys: KeySource) -> list[bytes]:
    return [
        key.material.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        for key in keys.known()
        if hasattr(key.material, "public_bytes")  # An HMAC secret is no key pair's.
    ]
