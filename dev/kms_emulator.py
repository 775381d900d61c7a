"""
An emulator of AWS KMS on 127.0.0.1, for development, tests and benchmarks.

moto stores the keys in memory and serves their management.  Operations that use a key
(Sign, Verify, GetPublicKey) behave as in AWS, see ``dev/kms_keys.py``.

::

    $ python -m dev.kms_emulator --port 4567 --create-key
    {"endpoint": "http://127.0.0.1:4567", "region": "eu-central-1", ...}

In a test, ``with KMSEmulator() as emulator`` serves on a free port, from a thread.

It serves all regions: a request belongs to the region that it is signed for, and a
key's ARN is known only in its own region.
"""

import argparse
import contextlib
import json
import os
import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak
from moto.kms.utils import ECDSAPrivateKey
from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    create_backend_app,
)
from werkzeug.test import Client

from dev.kms_keys import Keys, SignEvent, find, keys_of, region_of
from dev.kms_server import EmulatedService
from dev.kms_signing import KMSError, Signing
from dev.kms_wire import Call, Reply, error_reply


# For these, moto accepts only a key id, where AWS also accepts an ARN.
_BY_BARE_ID = {
    "CancelKeyDeletion",
    "DisableKey",
    "EnableKey",
    "ReplicateKey",
    "ScheduleKeyDeletion",
}


class KMSEmulator(EmulatedService):
    """
    The emulator in this process.

    ``trail`` has the CloudTrail events of Sign, oldest first.  Requests to the regions
    in ``down`` get no response.  Keys are created in ``region``.
    """

    region = "eu-central-1"

    def __init__(self, port: int = 0) -> None:
        super().__init__(port)
        self.down: set[str] = set()
        self._keys = Keys()
        self._moto = DomainDispatcherApplication(create_backend_app)

    @property
    def trail(self) -> Sequence[SignEvent]:
        """The CloudTrail events of Sign."""
        return self._keys.trail

    def create_key(
        self,
        spec: str = "ECC_SECG_P256K1",
        usage: str = "SIGN_VERIFY",
        *,
        multi_region: bool = False,
    ) -> str:
        """Create a key without HTTP, and return its ARN."""
        key = keys_of(self.region).create_key(
            None, usage, spec, "", None, multi_region=multi_region
        )
        return key.arn

    def replicate(self, arn: str, region: str) -> str:
        """
        Create a replica of a multi-Region key in *region*, and return its ARN.

        It has the same key material and its own state.
        """
        key = find(region_of(arn), arn)
        return keys_of(region_of(arn)).replicate_key(key.id, region).arn

    def create_alias(self, name: str, arn: str) -> None:
        """Create the alias *name*, which begins with ``alias/``."""
        keys_of(region_of(arn)).create_alias(arn, name)

    def set_state(self, arn: str, state: str) -> None:
        """Set the state of a key: Enabled, Disabled or PendingDeletion."""
        find(region_of(arn), arn).key_state = state

    def address(self, arn: str) -> str:
        """Return the Ethereum address of a secp256k1 key."""
        spki = find(region_of(arn), arn).private_key.public_key()
        return to_checksum_address(keccak(spki[-64:])[12:])

    def steal(self, arn: str) -> int:
        """Return the private key, as an intruder has it who can sign with it."""
        key = cast(ECDSAPrivateKey, find(region_of(arn), arn).private_key)
        return key.private_key.private_numbers().private_value

    def is_down(self, call: Call) -> bool:
        return call.region in self.down

    def respond(self, call: Call, signing: Signing) -> Reply:
        region = call.region
        if region is None:
            return error_reply(
                KMSError("MissingAuthenticationTokenException", "Missing token")
            )
        try:
            match call.operation:
                case "Sign":
                    result = self._keys.sign(
                        region, call.parameters, call.request_id, signing
                    )
                case "Verify":
                    result = self._keys.verify(region, call.parameters)
                case "GetPublicKey":
                    result = self._keys.public_key(region, call.parameters)
                case _:
                    return self._forward_to_moto(call)
        except KMSError as e:
            return error_reply(e)
        return Reply(json.dumps(result).encode())

    def _forward_to_moto(self, call: Call) -> Reply:
        body = call.body
        if call.operation in _BY_BARE_ID:
            bare = call.parameters.get("KeyId", "").rpartition("key/")[2]
            body = json.dumps({**call.parameters, "KeyId": bare}).encode()
        response = Client(self._moto, use_cookies=False).post(
            "/",
            headers=[(n, v) for n, v in call.headers.items() if n != "content-length"],
            data=body,
        )
        return Reply(response.data, response.status_code)


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until SIGTERM or SIGINT; print the endpoint as one line of JSON."""
    parser = argparse.ArgumentParser(description="AWS KMS on 127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: any free port")
    parser.add_argument("--ready-file", type=Path, help="also gets the line of JSON")
    parser.add_argument(
        "--create-key", action="store_true", help="create a signing key"
    )
    options = parser.parse_args(arguments)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with KMSEmulator(options.port) as emulator:
        facts = {"endpoint": emulator.endpoint, "region": emulator.region}
        if options.create_key:
            arn = emulator.create_key()
            facts |= {
                "key_id": arn.rpartition("/")[2],
                "arn": arn,
                "address": emulator.address(arn),
            }
        _announce(json.dumps(facts), options.ready_file)
        stop.wait()


def _announce(line: str, ready_file: Path | None) -> None:
    """Print *line*, and write it to *ready_file* atomically."""
    if ready_file is not None:
        unfinished = ready_file.with_name(f".{ready_file.name}.{os.getpid()}")
        unfinished.write_text(line + "\n", encoding="utf-8")
        unfinished.replace(ready_file)
    with contextlib.suppress(BrokenPipeError):
        print(line, flush=True)


if __name__ == "__main__":
    main()
