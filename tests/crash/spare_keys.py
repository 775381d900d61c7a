"""
Makes keys to rotate to, in the token that the environment names.

``python -m tests.crash.spare_keys 3`` prints their names and addresses as JSON.
"""

import json
import os
import sys

from backends.pkcs11 import PKCS11Backend
from signer.config.settings import Settings
from signer.crypto.der import parse_public_key
from softhsm import prepare


def main(count: int) -> None:
    """Make *count* keys."""
    settings = Settings.from_env(os.environ)
    module, pin = prepare(settings)
    backend = PKCS11Backend(module, settings.pkcs11_token_label, pin)
    made = []
    for number in range(count):
        name = backend.generate(f"spare-{number}")
        address = parse_public_key(backend.public_key(name)).address
        made.append({"name": name, "address": address})
    sys.stdout.write(json.dumps(made))


if __name__ == "__main__":
    main(int(sys.argv[1]))
