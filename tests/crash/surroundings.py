"""What a service stands on, each behind a fault proxy: chain, key and database."""

import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from dev import stablecoin
from dev.anvil import ROOT, find_anvil
from dev.chain import CHAIN_ID, LocalChain
from dev.kms_emulator import KMSEmulator
from dev.rpc import RPC
from tests.crash.control import RemotePlan
from tests.crash.faults import Fault, Plan
from tests.crash.messages import Message
from tests.crash.proxy import Proxy
from tests.crash.supervisor import Program, Supervisor


DECIMALS = 6
FUNDS = 1_000_000 * 10**DECIMALS

_START_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain and its stablecoin; *plan* is its proxy's, *rpc* passes the proxy by."""

    rpc: RPC
    token: str
    plan: Plan

    def fund(self, *wallets: str) -> None:
        """Give *wallets* their coins and gas; then, a block comes every second."""
        for wallet in wallets:
            stablecoin.fund(self.rpc.url, wallet, token=self.token, amount=FUNDS)
        self.rpc("evm_setAutomine", False)
        self.rpc("evm_setIntervalMining", 1)


@contextmanager
def running_chain(networks_file: Path) -> Iterator[Chain]:
    """Start anvil and its proxy, and tell the service of the proxy alone."""
    anvil = find_anvil(ROOT)
    assert anvil, "no anvil: run `python -m dev.anvil`, or set ANVIL"
    with LocalChain(anvil) as chain, Proxy(chain.url) as proxy:
        token = stablecoin.deploy(chain.url)
        document = _NETWORKS.format(chain=CHAIN_ID, url=proxy.url, token=token)
        networks_file.write_text(document, encoding="utf-8")
        yield Chain(RPC(chain.url), token, proxy.plan)


@dataclass(frozen=True, slots=True)
class Spare:
    """Another key of the same device: *name* is what an administrator calls it."""

    name: str
    address: str


@dataclass(frozen=True, slots=True)
class Signed:
    """A request to sign by the device's own log; *key* is the name of its key."""

    request_id: str
    key: str
    digest: str
    is_refused: bool


@dataclass(frozen=True, slots=True)
class Key:
    """
    The wallet's key, and what a service needs to sign with it.

    ``used`` are the digests that the device was asked to sign, as far as it can be
    overheard, and when that was first; *plan* is its proxy's.  ``name`` is the key's
    own, and ``log`` what the device says that it signed.  ``kms`` is the device itself,
    where that is a KMS: its keys may be replicated, and its regions fail.
    """

    address: str
    environ: Mapping[str, str] = field(default_factory=dict)
    plan: Plan = field(default_factory=Plan)
    used: dict[str, float] = field(default_factory=dict)
    name: str = ""
    spares: tuple[Spare, ...] = ()
    log: Callable[[], Sequence[Signed]] = tuple
    kms: KMSEmulator | None = None


def softhsm_key(environ: Mapping[str, str], spares: int = 0) -> Key:
    """Make a token with a key in it, and with *spares* more."""
    made = _said("api.cli", ["softhsm", "init", "--json"], environ)
    others = _said("tests.crash.spare_keys", [str(spares)], environ) if spares else ()
    return Key(
        made["address"],
        name=made["key_id"],
        spares=tuple(Spare(**each) for each in others),
    )


@contextmanager
def kms_key(spares: int = 0) -> Iterator[Key]:
    """
    Start a KMS with a key and *spares* more, behind a proxy that overhears Sign.

    Everybody else's processes reach it over HTTP; it lives in a thread of this one, so
    that its log can be read.
    """
    used: dict[str, float] = {}

    def overhear(message: Message, fault: Fault) -> None:
        if message.name == "Sign":
            used.setdefault(_digest(json.loads(message.body)), time.monotonic())

    with KMSEmulator() as kms, Proxy(kms.endpoint, overhear) as proxy:
        arns = [kms.create_key(multi_region=True) for _ in range(spares + 1)]
        settings = {
            "USE_KMS": "true",
            "KMS_KEY_ID": arns[0],
            "KMS_TIMEOUT_MS": "4000",
            "AWS_REGION": kms.region,
            "AWS_ENDPOINT_URL_KMS": proxy.url,
            "AWS_ACCESS_KEY_ID": "local",
            "AWS_SECRET_ACCESS_KEY": "local",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        yield Key(
            kms.address(arns[0]),
            settings,
            proxy.plan,
            used,
            arns[0],
            tuple(Spare(arn, kms.address(arn)) for arn in arns[1:]),
            lambda: _log(kms),
            kms,
        )


def _log(kms: KMSEmulator) -> tuple[Signed, ...]:
    digests = {
        call.request_id: _digest(call.parameters)
        for call in kms.journal.copy()
        if call.operation == "Sign"
    }
    return tuple(
        Signed(
            event.request_id,
            event.key_id,
            digests[event.request_id],
            is_refused=event.error_code is not None,
        )
        for event in tuple(kms.trail)
    )


def _digest(asked: Mapping[str, str]) -> str:
    return base64.b64decode(asked["Message"]).hex()


def _said(module: str, arguments: list[str], environ: Mapping[str, str]) -> Any:
    made = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env=dict(environ),
        check=True,
        capture_output=True,
    )
    return json.loads(made.stdout)


@contextmanager
def database_proxy(
    supervisor: Supervisor, url: str, environ: Mapping[str, str]
) -> Iterator[tuple[str, RemotePlan]]:
    """
    Put a proxy, in a process of its own, before the PostgreSQL server at *url*.

    Yields:
        The URL that goes through the proxy, and the proxy's plan.
    """
    parts = urlsplit(url)
    (folder,) = parse_qs(parts.query)["host"]
    ready = supervisor.folder / "database.ready"
    command = ["tests.crash.proxy", "--upstream", f"unix:{folder}/.s.PGSQL.5432"]
    supervisor.start(
        Program("database", [*command, "--ready-file", str(ready)], environ, kept=False)
    )
    made = _announced(ready)
    through = f"postgresql://{parts.username}@127.0.0.1:{made['port']}{parts.path}"
    with RemotePlan(int(made["control_port"])) as plan:
        yield through, plan


def environment(home: Path) -> dict[str, str]:
    """Return the settings of a service that lives in *home*."""
    # The caller's own settings must not leak in.
    kept = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "PKCS11_MODULE", "ANVIL")
    return {
        **{name: os.environ[name] for name in kept if name in os.environ},
        "APP_ENV": "test",
        "HOTWALLET_HOME": str(home / "hotwallet"),
        "NETWORKS_FILE": str(home / "networks.toml"),
        "JWT_SIGNING_KEY_FILE": str(home / "jwt.pem"),
        "JWT_PUBLIC_KEY_FILE": str(home / "jwt.pub.pem"),
    }


def _announced(ready: Path) -> dict[str, str]:
    deadline = time.monotonic() + _START_SECONDS
    while not ready.exists():
        assert time.monotonic() < deadline, f"{ready.stem} did not start"
        time.sleep(0.05)
    made: dict[str, str] = json.loads(ready.read_text(encoding="utf-8"))
    return made


_NETWORKS = """\
[networks.local]
chain_id = {chain}
rpc_urls = ["{url}"]
confirmations = 2
rpc_timeout_ms = 3000
stuck_after_seconds = 5

[networks.local.tokens.TUSD]
address = "{token}"
decimals = 6
max_amount = "1000"
"""
