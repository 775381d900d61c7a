"""Chain, key and database of the service, each with a fault proxy before it."""

import base64
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from dev import stablecoin
from dev.anvil import ROOT, find_anvil
from dev.chain import CHAIN_ID, LocalChain, LocalNode
from dev.kms_emulator import KMSEmulator
from dev.rpc import RPC
from signer.config.settings import Settings
from tests.crash.fault_plan import Fault, Plan
from tests.crash.http_messages import Message
from tests.crash.proxy import Proxy
from tests.fixtures.geth import Geth, running_geth
from tests.support.forkserver import FORK_SERVER
from tests.support.ledgers import write_mac_key
from tests.support.vault import LocalVault, deploy_vault


DECIMALS = 6
FUNDS = 1_000_000 * 10**DECIMALS
COIN_FUNDS = 10**19

_GETH_SECONDS = 2

CAPS = (9_000_000, FUNDS)
"""What a vault pays at most for an item, and on a day: all that clients request."""


@dataclass(frozen=True, slots=True)
class Chain:
    """
    A chain and its stablecoin; *plan* is its proxy's, *rpc* bypasses the proxy.

    The service reads *networks_file*.
    """

    rpc: RPC
    token: str
    plan: Plan
    networks_file: Path
    node: LocalNode
    kind: str | None = None

    def add_vault(self, *operators: str, **settings: int) -> LocalVault:
        """Let a new vault pay, with *settings* of the network."""
        url = self.rpc.url
        vault = deploy_vault(
            url, self.token, caps=CAPS, funds=FUNDS, operators=operators, delay=0
        )
        given = {"vault": f'"{vault.address}"', **settings}
        lines = "".join(f"{name} = {value}\n" for name, value in given.items())
        text = self.networks_file.read_text("utf-8")
        head, tokens = text.split("\n\n", 1)
        self.networks_file.write_text(f"{head}\n{lines}\n{tokens}", "utf-8")
        return vault

    def fund(self, *wallets: str) -> None:
        """Give *wallets* tokens and gas; after that blocks are mined by time."""
        url, funds = self.rpc.url, {"amount": FUNDS, "wei": COIN_FUNDS}
        for wallet in wallets:
            stablecoin.fund(url, wallet, token=self.token, kind=self.kind, **funds)
        self.node.mine_every(_GETH_SECONDS if isinstance(self.node, Geth) else 1)


@contextmanager
def running_chain(
    networks_file: Path,
    stuck_after: int = 5,
    confirmations: int = 2,
    *,
    kind: str | None = None,
    uses_geth: bool = False,
) -> Iterator[Chain]:
    """
    Start anvil, or geth, and its proxy, whose URL the service finds in *networks_file*.

    The service raises the fees of a transaction that waits *stuck_after* seconds.  A
    block with *confirmations* is final.  On a chain of *kind* "arc" or "tempo" the
    token pays for gas.
    """
    anvil = find_anvil(ROOT)
    assert anvil, "no anvil: run `python -m dev.anvil`, or set ANVIL"
    with (
        running_geth() if uses_geth else LocalChain(anvil, kind=kind) as chain,
        Proxy(chain.url) as proxy,
    ):
        token = stablecoin.deploy_on(chain.url, kind)
        document = _NETWORKS.format(
            chain=CHAIN_ID,
            url=proxy.url,
            token=token,
            stuck_after=stuck_after,
            confirmations=confirmations,
            kind=f'kind = "{kind}"\ncoin_is = "TUSD"' if kind else "",
        )
        networks_file.write_text(document, encoding="utf-8")
        yield Chain(RPC(chain.url), token, proxy.plan, networks_file, chain, kind)


@dataclass(frozen=True, slots=True)
class Wallet:
    """A key of the device: *name* is its id in an administrator's request."""

    name: str
    address: str


@dataclass(frozen=True, slots=True)
class DeviceSignature:
    """A request to sign in the device's own log; *key* is the name of its key."""

    request_id: str
    key: str
    digest: str
    is_refused: bool


@dataclass(frozen=True, slots=True)
class Device:
    """
    The device with the service's first key and *spares* to rotate to.

    ``environ`` are the settings for it.  ``used`` has the digests that it was asked to
    sign, with the time of the first request, if its proxy can read requests; *plan* is
    the proxy's, and ``read_log`` returns the device's own log.  *kms* is the emulator,
    if the device is a KMS.
    """

    key: Wallet
    spares: tuple[Wallet, ...] = ()
    environ: Mapping[str, str] = field(default_factory=dict)
    plan: Plan = field(default_factory=Plan)
    used: dict[str, float] = field(default_factory=dict)
    read_log: Callable[[], Sequence[DeviceSignature]] = tuple
    kms: KMSEmulator | None = None


def softhsm_device(environ: Mapping[str, str], spares: int) -> Device:
    """Make a token with a key and *spares* more, in a process that loads the module."""
    with ProcessPoolExecutor(1, mp_context=FORK_SERVER) as pool:
        key, *others = pool.submit(_make_keys, dict(environ), spares).result()
    return Device(key, tuple(others))


def _make_keys(environ: Mapping[str, str], spares: int) -> list[Wallet]:
    from backends.pkcs11 import PKCS11Backend  # noqa: PLC0415  Not in the tests' process.
    from signer.crypto.der import parse_public_key  # noqa: PLC0415
    from softhsm import library, provision  # noqa: PLC0415
    from softhsm.layout import Layout  # noqa: PLC0415
    from softhsm.plugin import prepare  # noqa: PLC0415

    # The server that forks this process may have the environment of an earlier test.
    os.environ.clear()
    os.environ.update(environ)
    settings = Settings.from_env(environ)
    if library.find_module(settings) is None:
        library.install(Layout.of(settings.home), lambda _: None)
    module, pin = prepare(settings)
    first = provision.init(settings, module)
    backend = PKCS11Backend(module, settings.pkcs11_token_label, pin)
    names = [backend.generate(f"spare-{number}") for number in range(spares)]
    return [
        Wallet(first.key_id, first.address),
        *(
            Wallet(name, parse_public_key(backend.public_key(name)).address)
            for name in names
        ),
    ]


@contextmanager
def kms_device(spares: int) -> Iterator[Device]:
    """
    Start a KMS with a key and *spares* more, and a proxy that reads its requests.

    It runs in a thread of this process, so that tests can read its log.
    """
    used: dict[str, float] = {}

    def note_digest(message: Message, fault: Fault) -> None:
        if message.name == "Sign":
            used.setdefault(digest_of(json.loads(message.body)), time.monotonic())

    with KMSEmulator() as kms, Proxy(kms.endpoint, note_digest) as proxy:
        arns = [kms.create_key(multi_region=True) for _ in range(spares + 1)]
        key, *others = (Wallet(arn, kms.address(arn)) for arn in arns)
        environ = {
            "USE_KMS": "true",
            "KMS_KEY_ID": key.name,
            "KMS_TIMEOUT_MS": "4000",
            "AWS_REGION": kms.region,
            "AWS_ENDPOINT_URL_KMS": proxy.url,
            "AWS_ACCESS_KEY_ID": "local",
            "AWS_SECRET_ACCESS_KEY": "local",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        yield Device(
            key, tuple(others), environ, proxy.plan, used, lambda: _read_log(kms), kms
        )


def _read_log(kms: KMSEmulator) -> tuple[DeviceSignature, ...]:
    digests = {
        call.request_id: digest_of(call.parameters)
        for call in kms.journal.copy()
        if call.operation == "Sign"
    }
    return tuple(
        DeviceSignature(
            event.request_id,
            event.key_id,
            digests[event.request_id],
            is_refused=event.error_code is not None,
        )
        for event in tuple(kms.trail)
    )


def digest_of(parameters: Mapping[str, str]) -> str:
    """Return the digest in the parameters of a KMS Sign request, as hex."""
    return base64.b64decode(parameters["Message"]).hex()


@contextmanager
def database_proxy(url: str) -> Iterator[tuple[str, Plan]]:
    """Yield a URL that goes to PostgreSQL at *url* through a proxy, and its plan."""
    parts = urlsplit(url)
    (folder,) = parse_qs(parts.query)["host"]
    with Proxy(f"unix:{folder}/.s.PGSQL.5432") as proxy:
        address = f"{parts.username}@127.0.0.1:{proxy.port}"
        yield f"postgresql://{address}{parts.path}", proxy.plan


def environment(home: Path) -> dict[str, str]:
    """Return the settings of a service with its files in *home*."""
    # The developer's own settings must not change the tests.
    kept = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "PKCS11_MODULE", "ANVIL")
    return {
        **{name: os.environ[name] for name in kept if name in os.environ},
        "APP_ENV": "test",
        "HOTWALLET_HOME": str(home / "hotwallet"),
        # The register of stops in the tests' ledgers has a MAC of this key.
        "MAC_KEY_FILE": str(write_mac_key(home)),
        "NETWORKS_FILE": str(home / "networks.toml"),
        "JWT_SIGNING_KEY_FILE": str(home / "jwt.pem"),
        "JWT_PUBLIC_KEY_FILE": str(home / "jwt.pub.pem"),
    }


_NETWORKS = """\
[networks.local]
chain_id = {chain}
rpc_urls = ["{url}"]
confirmations = {confirmations}
rpc_timeout_ms = 3000
stuck_after_seconds = {stuck_after}
{kind}

[networks.local.tokens.TUSD]
address = "{token}"
decimals = 6
max_amount = "1000"
"""
