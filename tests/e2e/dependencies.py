"""The dependencies of a real service, each of which can be frozen and thawed."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from backends.aws_kms.backend import KMSAdministrator
from backends.aws_kms.client import build_client
from dev import stablecoin
from dev.anvil import ROOT
from dev.kms_emulator import KMSEmulator
from tests.fixtures.chain import DevChain
from tests.support.ledgers import write_mac_key
from tests.support.servers import LocalHandler, LocalServer
from tests.support.waiting import eventually


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Stop a process: its kernel accepts connections, and nothing answers."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


class KMSProcess:
    """The KMS emulator in a process of its own, with two keys."""

    def __init__(self, folder: Path) -> None:
        self._ready = folder / "kms.json"
        self._log = folder / "kms.log"

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    ROOT / "dev" / "with_parent.py",
                    str(os.getpid()),
                    sys.executable,
                    *("-m", "dev.kms_emulator", "--create-key"),
                    *("--ready-file", str(self._ready)),
                ],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        assert eventually(self._ready.exists, 30), self._log.read_text()
        facts = json.loads(self._ready.read_text(encoding="utf-8"))
        self.address = facts["address"]
        self.settings = kms_settings(facts["arn"], facts["region"], facts["endpoint"])
        client = build_client(
            region=facts["region"],
            endpoint_url=facts["endpoint"],
            max_retries=1,
            timeout_ms=5_000,
            max_pool_connections=1,
        )
        administrator = KMSAdministrator(client)
        self.other_key = administrator.generate("other")
        administrator.close()
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()


class AlertReceiver(LocalServer):
    """A webhook that records alerts, and answers nothing inside ``silent()``."""

    def __init__(self) -> None:
        super().__init__(_AlertHandler)
        self.alerts: list[str] = []
        self.unanswered = 0
        self.answers = threading.Event()
        self.answers.set()

    def __exit__(self, *_: object) -> None:
        self.answers.set()
        super().__exit__()

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Accept connections, and answer none of them."""
        self.answers.clear()
        try:
            yield
        finally:
            self.answers.set()


class _AlertHandler(LocalHandler):
    server: AlertReceiver

    def respond(self) -> None:
        body = self.read_body()
        if not self.server.answers.is_set():
            self.server.unanswered += 1
            self.server.answers.wait()
            return  # The service has closed this connection long ago.
        self.server.alerts.append(json.loads(body)["alert"])
        self.answer(204)


def prepared_networks(
    folder: Path, chain_url: str, wallet: str, *, node_url: str, **options: int
) -> tuple[Path, str]:
    """
    Deploy a token, fund *wallet* with it; return the networks file and the token.

    *options* are keys of the network, whose node is at *node_url*.
    """
    token = stablecoin.deploy(chain_url)
    stablecoin.fund(chain_url, wallet, token=token)
    path = folder / "networks.toml"
    lines = "\n".join(f"{name} = {value}" for name, value in options.items())
    path.write_text(
        f"""\
[networks.local]
chain_id = 31337
rpc_urls = ["{node_url}"]
{lines}

[networks.local.tokens.TUSD]
address = "{token}"
decimals = 6
max_amount = "10000000"
""",
        encoding="utf-8",
    )
    return path, token


def kms_settings(key: str, region: str, endpoint: str) -> dict[str, str]:
    """Return the settings of a service that signs with an emulator's *key*."""
    return {
        "USE_KMS": "true",
        "KMS_KEY_ID": key,
        "AWS_REGION": region,
        "AWS_ENDPOINT_URL_KMS": endpoint,
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def service_environ(folder: Path, networks: Path, **settings: str) -> dict[str, str]:
    """Return the environment of a service with its files in *folder*."""
    home = folder / "home"
    home.mkdir(mode=0o700)
    return {
        "PATH": os.environ["PATH"],
        "HOTWALLET_NO_ENV_FILE": "1",
        "APP_ENV": "development",
        "HOTWALLET_HOME": str(home),
        # The register of stops in the tests' ledgers has a MAC of this key.
        "MAC_KEY_FILE": str(write_mac_key(folder)),
        "NETWORKS_FILE": str(networks),
        "JWT_ALGORITHM": "HS256",
        "JWT_SECRET": "frozen-dependencies-" * 2,
        "NO_PROXY": "127.0.0.1",
        **settings,
    }


@contextmanager
def kms_service(
    folder: Path, chain: DevChain, *, node_url: str | None = None, **settings: str
) -> Iterator[tuple[KMSEmulator, dict[str, str]]]:
    """Yield a KMS, and the environment of a service that signs with its key."""
    with KMSEmulator() as kms:
        key = kms.create_key()
        networks, _ = prepared_networks(
            folder,
            chain.url,
            kms.address(key),
            node_url=node_url or chain.url,
            confirmations=1,
        )
        signing = kms_settings(key, kms.region, kms.endpoint)
        given = {"WEB_CONCURRENCY": "1", **signing, **settings}
        yield kms, service_environ(folder, networks, **given)
