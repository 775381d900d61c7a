"""
A KMS that answers fast, for measurements: one key, in a process of its own.

The emulator checks what AWS checks and takes about 1 ms a call, more than a client
does.  This stand-in checks nothing and takes about 0.1 ms, and it has the latency, the
quota and the failures of a real service::

    $ python -m dev.kms_stand_in --latency 20 --quota 1000
    {"endpoint": "http://127.0.0.1:4567", "key_id": "arn:aws:kms:...", ...}

``GET /`` returns the counts of requests, signatures, throttles and failures, as JSON.
"""

import argparse
import asyncio
import base64
import json
import random
import re
import signal
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from typing import cast

import bitcurve
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec


REGION = "eu-central-1"
KEY_ID = f"arn:aws:kms:{REGION}:111122223333:key/{uuid.UUID(int=7)}"

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_MESSAGE = re.compile(rb'"Message": *"([^"]+)"')
_SLOW_SHARE = 0.01
_THROTTLED = b'{"__type":"ThrottlingException","message":"Rate exceeded"}'
_FAILED = b'{"__type":"KMSInternalException","message":"try again"}'
_CONTENT = "Content-Type: application/x-amz-json-1.1"


class Service:
    """The key, the latency and the failures, for all connections."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.counts: Counter[str] = Counter()
        self._key = bitcurve.PrivateKey()
        self._random = random.Random(options.seed)  # noqa: S311  Not a secret.
        self._tokens = float(options.quota)
        self._refilled = time.monotonic()

    def answer(self, head: bytes, body: bytes) -> tuple[int, bytes, float]:
        """Return the status and body of the answer, and its delay in seconds."""
        if head.startswith(b"GET"):
            return 200, json.dumps(self.counts).encode(), 0.0
        self.counts["requests"] += 1
        if b"GetPublicKey" in head:
            return 200, self._public_key(), 0.0
        delay = self._delay()
        if not self._has_quota() or self._happens(self.options.throttles):
            self.counts["throttled"] += 1
            return 400, _THROTTLED, 0.0
        if self._happens(self.options.errors):
            self.counts["failed"] += 1
            return 500, _FAILED, delay
        self.counts["signed"] += 1
        return 200, self._sign(body), delay

    def _delay(self) -> float:
        """One answer in a hundred takes ``--slowest``, the others ``--latency``."""
        options = self.options
        is_slow = options.slowest and self._happens(_SLOW_SHARE)
        return float(options.slowest if is_slow else options.latency) / 1000

    def _happens(self, share: float) -> bool:
        return self._random.random() < share

    def _has_quota(self) -> bool:
        """Take a token of KMS's bucket, which holds one second's quota."""
        if not self.options.quota:
            return True
        now = time.monotonic()
        grown = self._tokens + (now - self._refilled) * self.options.quota
        self._tokens = min(float(self.options.quota), grown)
        self._refilled = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def _sign(self, body: bytes) -> bytes:
        message = _MESSAGE.search(body)
        digest = base64.b64decode(message[1] if message else b"")
        signature = base64.b64encode(self._key.sign(digest, hasher=None))
        return b'{"KeyId":"%b","Signature":"%b","SigningAlgorithm":"ECDSA_SHA_256"}' % (
            KEY_ID.encode(),
            signature,
        )

    def _public_key(self) -> bytes:
        point = self._key.public_key.format(compressed=False)
        spki = ec.EllipticCurvePublicKey.from_encoded_point(
            ec.SECP256K1(), point
        ).public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        answer = {
            "KeyId": KEY_ID,
            "KeySpec": "ECC_SECG_P256K1",
            "KeyUsage": "SIGN_VERIFY",
            "PublicKey": base64.b64encode(spki).decode(),
        }
        return json.dumps(answer).encode()


class _Connection(asyncio.Protocol):
    """Answers the requests of one connection, one after another."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, rest = self._received.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not end or len(rest) < (int(length[1]) if length else 0):
            return
        self._received = b""
        status, body, delay = self._service.answer(head, rest)
        answer = (
            f"HTTP/1.1 {status} -\r\nx-amzn-RequestId: {uuid.uuid4()}\r\n{_CONTENT}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        ).encode() + body
        if delay:
            asyncio.get_running_loop().call_later(delay, self._write, answer)
        else:
            self._write(answer)

    def _write(self, answer: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(answer)


async def serve(options: argparse.Namespace) -> None:
    """Serve until SIGTERM or SIGINT; print the endpoint as one line of JSON."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    service = Service(options)
    server = await loop.create_server(
        lambda: _Connection(service), "127.0.0.1", options.port, backlog=256
    )
    endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    facts = {"endpoint": endpoint, "region": REGION, "key_id": KEY_ID}
    print(json.dumps(facts), flush=True)
    await stop.wait()
    server.close()


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the options and serve."""
    parser = argparse.ArgumentParser(description="A fast KMS on 127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: any free port")
    parser.add_argument("--latency", type=float, default=0.0, help="ms per signature")
    parser.add_argument("--slowest", type=float, default=0.0, help="ms, 1 in 100")
    parser.add_argument("--quota", type=int, default=0, help="per second; 0: no quota")
    parser.add_argument("--throttles", type=float, default=0.0, help="share, 0 to 1")
    parser.add_argument("--errors", type=float, default=0.0, help="share, 0 to 1")
    parser.add_argument("--seed", type=int, help="of the failures")
    asyncio.run(serve(parser.parse_args(arguments)))


if __name__ == "__main__":
    main()
