"""Loads the key that signs audit checkpoints, and keeps it apart from other keys."""

from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)

from signer.audit.checkpointer import CheckpointSettings
from signer.audit.checkpoints import CheckpointKey
from signer.config.settings import Settings
from signer.crypto.der import encode_public_key
from signer.crypto.secp256k1 import PublicKey
from signer.private_files import create_in_home
from signer.startup.dependency_checks import check_audit_key


if TYPE_CHECKING:
    from api.auth.verification_keys import KeySource


def open_checkpoint_key(settings: Settings) -> CheckpointSettings | None:
    """
    Return how checkpoints are signed; None if production has no key configured.

    Outside production a missing key is created in ``HOTWALLET_HOME``.
    """
    path = settings.audit_signing_key_file
    if path is None and settings.is_production:
        return None  # The guard reports it.
    if path is None:
        key = load_or_create_key(settings.home / "audit.pem")
    else:
        key = CheckpointKey.load(path)
    return CheckpointSettings(key, f"hotwallet/{settings.audit_origin}")


def load_or_create_key(path: Path) -> CheckpointKey:
    """
    Return the key at *path*, in HOTWALLET_HOME; create it if there is none.

    Any number of processes may call this at once: they all return the same key.
    """
    create_in_home(
        path,
        lambda: CheckpointKey.generate().private_pem(),
        code="audit-misconfigured",
        variable="AUDIT_SIGNING_KEY_FILE",
    )
    return CheckpointKey.load(path)


def require_separate_key(
    signing: CheckpointSettings, keys: "KeySource | None", wallet: PublicKey | None
) -> None:
    """
    Require that the checkpoint key neither signs payments nor verifies tokens.

    *wallet* is None while the device does not answer.
    """
    pem = load_pem_public_key(signing.key.public_pem())
    audit = pem.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    known = () if keys is None else keys.known()
    jwt_spkis = [key.spki for key in known if key.spki is not None]
    wallet_spki = None if wallet is None else encode_public_key(wallet.uncompressed)
    check_audit_key(audit, jwt_spkis, wallet_spki)
