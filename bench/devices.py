"""The devices: a SoftHSM token in this process, and a KMS stand-in beside it."""

import contextlib
import http.client
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from api.backend_factories import open_backend
from bench.timing import Action
from dev.anvil import ROOT
from dev.stack import hotwallet
from signer.config.settings import Settings
from signer.ports.key_backend import KeyBackend, KeyId


if TYPE_CHECKING:
    from types_boto3_kms import KMSClient

    from backends.pkcs11.cryptoki import Library


@dataclass(frozen=True, slots=True)
class Token:
    """A SoftHSM token; *sign_bare* calls ``C_Sign`` and nothing else."""

    sign_bare: Callable[[bytes], bytes]
    backend: KeyBackend
    key_id: KeyId
    address: str


def open_softhsm(folder: Path) -> Token:
    """Create a token in *folder* and log this process in; once per process."""
    from backends.pkcs11.cryptoki import Library  # noqa: PLC0415  Loads PKCS#11.
    from softhsm.plugin import prepare  # noqa: PLC0415

    environ = {**os.environ, "APP_ENV": "test", "HOTWALLET_HOME": str(folder)}
    environ.pop("SOFTHSM2_CONF", None)
    made = json.loads(hotwallet(environ, "softhsm", "init", "--json"))
    settings = Settings.from_env(environ)
    backend = open_backend(settings)
    key_id = KeyId(made["key_id"])
    backend.public_key(key_id)  # Logs the process in, for the bare sessions too.
    module, _ = prepare(settings)
    library = Library.of(os.path.realpath(module))
    bare = _bare_signer(library, settings.pkcs11_token_label, bytes.fromhex(key_id))
    return Token(bare, backend, key_id, made["address"])


def _bare_signer(
    library: "Library", label: str, cka_id: bytes
) -> Callable[[bytes], bytes]:
    """Return the bare call; each thread has a session of its own."""
    from pkcs11 import ObjectClass  # noqa: PLC0415

    from backends.pkcs11.functions import Session  # noqa: PLC0415
    from backends.pkcs11.keys import find  # noqa: PLC0415

    local = threading.local()

    def sign(digest: bytes) -> bytes:
        if not hasattr(local, "key"):
            local.session = Session(library.functions, library.token(label))
            (local.key,) = find(local.session, ObjectClass.PRIVATE_KEY, cka_id)
        signature: bytes = local.session.sign(local.key, digest)
        return signature

    return sign


@dataclass(frozen=True, slots=True)
class StandIn:
    """A running ``dev.kms_stand_in``; its key signs at once."""

    endpoint: str
    region: str
    key_id: KeyId

    def counts(self) -> Mapping[str, int]:
        """Return how many requests it received, signed, throttled and failed."""
        connection = http.client.HTTPConnection(urlsplit(self.endpoint).netloc)
        connection.request("GET", "/")
        counts: Mapping[str, int] = json.load(connection.getresponse())
        connection.close()
        return counts

    def environ(self) -> Mapping[str, str]:
        """Return the environment of a client, the service or another library."""
        return {
            "USE_KMS": "true",
            "KMS_KEY_ID": self.key_id,
            "AWS_REGION": self.region,
            "AWS_ENDPOINT_URL_KMS": self.endpoint,
            "AWS_ACCESS_KEY_ID": "local",
            "AWS_SECRET_ACCESS_KEY": "local",
            "AWS_EC2_METADATA_DISABLED": "true",
        }


@contextlib.contextmanager
def kms_stand_in(*options: str) -> Iterator[StandIn]:
    """Run a stand-in with the *options* of ``dev.kms_stand_in``."""
    with subprocess.Popen(
        [sys.executable, "-m", "dev.kms_stand_in", *options],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            facts = json.loads(process.stdout.readline())
            yield StandIn(facts["endpoint"], facts["region"], KeyId(facts["key_id"]))
        finally:
            process.terminate()


def open_kms(stand_in: StandIn, threads: int, *, per_second: int = 0) -> KeyBackend:
    """
    Return the service's own client of *stand_in*, for *threads* threads.

    It sends *per_second* requests at most; 0 is no limit.
    """
    environ = {
        **os.environ,
        **stand_in.environ(),
        "APP_ENV": "development",
        "WEB_THREADS": str(threads),
        "KMS_SIGNATURES_PER_SECOND": str(per_second),
    }
    os.environ.update(stand_in.environ())  # boto3 reads its credentials there.
    return open_backend(Settings.from_env(environ), is_worker=True)


def bare_kms(stand_in: StandIn, connections: int) -> Action:
    """Return boto3's ``sign`` with boto3's own configuration and no retries."""
    import boto3  # type: ignore[import-untyped]  # noqa: PLC0415
    from botocore.config import Config  # type: ignore[import-untyped]  # noqa: PLC0415

    client: KMSClient = boto3.session.Session().client(
        "kms",
        region_name=stand_in.region,
        endpoint_url=stand_in.endpoint,
        aws_access_key_id="local",
        aws_secret_access_key="local",
        config=Config(
            max_pool_connections=connections, retries={"total_max_attempts": 1}
        ),
    )
    return lambda: client.sign(
        KeyId=stand_in.key_id,
        Message=os.urandom(32),
        MessageType="DIGEST",
        SigningAlgorithm="ECDSA_SHA_256",
    )
