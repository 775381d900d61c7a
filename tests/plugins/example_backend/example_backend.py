"""
A key backend of another package: keys in PEM files, for a demonstration.

Such keys can be copied, so production refuses them.  A real backend asks a device.
"""

import re
import secrets
from collections.abc import Iterator
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from pydantic import BaseModel, ConfigDict, Field

from hotwallet import (
    BackendConfig,
    BackendError,
    BackendPlugin,
    DeviceSignature,
    InvalidInputError,
    KeyId,
    KeyNotFoundError,
    KeyUnusableError,
    Refusal,
)


NAME = "example-files"


class Options(BaseModel):
    """The variables of this backend."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    folder: Path | None = Field(None, alias="EXAMPLE_FOLDER")
    key: str = Field("first", alias="EXAMPLE_KEY", pattern=r"^[a-z0-9]{1,20}$")


class FileBackend:
    """Signs with the keys in *folder*; see ``signer/ports/key_backend.py``."""

    name = NAME
    concurrency = 2

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def resolve(self, name: str) -> KeyId:
        """Return the id of the key *name*, which is the same here."""
        if not re.fullmatch(r"[a-z0-9]{1,20}", name):
            raise InvalidInputError("must be letters and digits", field="key_id")
        self.public_key(KeyId(name))
        return KeyId(name)

    def public_key(self, key_id: KeyId) -> bytes:
        """Return the DER ``SubjectPublicKeyInfo``."""
        public = self._read(key_id).public_key()
        return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def sign_digest(self, key_id: KeyId, digest: bytes) -> DeviceSignature:
        """Sign *digest* as it is."""
        if len(digest) != 32:
            raise InvalidInputError("must be 32 bytes", field="digest")
        as_given = ec.ECDSA(Prehashed(SHA256()))
        return DeviceSignature(self._read(key_id).sign(digest, as_given))

    def generate(self, label: str) -> KeyId:
        """Make a key; the contract needs more than one."""
        key_id = KeyId(secrets.token_hex(8))
        encoded = ec.generate_private_key(ec.SECP256K1()).private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        )
        (self._folder / f"{key_id}.pem").write_bytes(encoded)
        return key_id

    def _read(self, key_id: KeyId) -> ec.EllipticCurvePrivateKey:
        if not re.fullmatch(r"[a-z0-9]{1,20}", key_id):
            raise KeyNotFoundError("the key id is not letters and digits")
        try:
            encoded = (self._folder / f"{key_id}.pem").read_bytes()
            key = load_pem_private_key(encoded, None)
        except FileNotFoundError:
            problem: BackendError = KeyNotFoundError("there is no such key")
        except (OSError, ValueError):
            problem = KeyUnusableError("the file of the key cannot be read")
        else:
            if isinstance(key, ec.EllipticCurvePrivateKey):
                return key
            problem = KeyUnusableError("the key is not of an elliptic curve")
        # Outside the handler, so that __context__ does not contain the path.
        raise problem


class Plugin:
    """Makes the backend available; see ``signer/ports/backend_plugin.py``."""

    name = NAME
    key_setting = "EXAMPLE_KEY"
    modules = ()

    def key_name(self, config: BackendConfig) -> str:
        """Return the name of the first key."""
        return config.read(Options).key

    def refusals(self, config: BackendConfig) -> Iterator[Refusal]:
        """Yield why the settings are unusable."""
        if config.read(Options).folder is None:
            yield Refusal(
                "kms-not-configured", f"KEY_BACKEND={NAME} needs EXAMPLE_FOLDER"
            )

    def production_refusal(self, config: BackendConfig) -> Refusal:
        """Return why production may not use it: always."""
        return Refusal("backend-forbidden", "keys in files can be copied")

    def open(self, config: BackendConfig) -> FileBackend:
        """Return the backend."""
        return FileBackend(config.read(Options).folder or Path())


PLUGIN: BackendPlugin = Plugin()
