"""A backend signs a digest, without eth-account."""

import hashlib
import os
import sys
from pathlib import Path

from hotwallet import KeyId, PKCS11Backend, parse_public_key, parse_signature
from hotwallet import recoverable as find_signature


os.environ["SOFTHSM2_CONF"] = os.environ["THE_SOFTHSM2_CONF"]
pin = Path(os.environ["THE_PKCS11_PIN_FILE"])
backend = PKCS11Backend(
    Path(os.environ["PKCS11_MODULE"]),
    os.environ["THE_PKCS11_TOKEN_LABEL"],
    lambda: pin.read_text().strip(),
)
key = KeyId(os.environ["THE_PKCS11_KEY_ID"])
digest = hashlib.sha256(b"a digest").digest()
public_key = parse_public_key(backend.public_key(key))
r, s = parse_signature(backend.sign_digest(key, digest).der)
signature = find_signature(r, s, digest, public_key)
assert signature.recover(digest).address == public_key.address
assert "eth_account" not in sys.modules
