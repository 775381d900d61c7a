"""
The whole system on one laptop: token, chain, stablecoin, API and worker.

``make dev`` runs it until Ctrl-C, on 127.0.0.1 or HOST.  All files are in
``.hotwallet/``, and all processes end with it.
"""

import contextlib
import fcntl
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

from dev import stablecoin
from dev.anvil import ROOT, obtain_anvil
from dev.chain import CHAIN_ID, LocalChain, LocalNode
from dev.ports import free_port


if TYPE_CHECKING:
    from dev.google_kms_emulator import GoogleKMSEmulator
    from dev.kms_emulator import KMSEmulator


SYMBOL = "TUSD"
NETWORK = "local"

# Each terminal has its own values of these.
_TERMINAL = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR")
# The stack inherits only these variables.
_INHERITED = (*_TERMINAL, "PKCS11_MODULE", "ANVIL")

_HIGHEST_PORT = 65535

_START_SECONDS = 120.0
_STOP_SECONDS = 35.0

Report = Callable[[str], None]


class Process(Protocol):
    """What a stack uses of ``subprocess.Popen``."""

    @property
    def pid(self) -> int:
        """Its id."""

    def poll(self) -> int | None:
        """Return the exit status if it has ended."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has ended; return the exit status."""

    def send_signal(self, number: int, /) -> None:
        """Send it a signal, unless it has ended."""


class Launcher(Protocol):
    """Runs ``hotwallet``."""

    def run(
        self, arguments: Sequence[str], environ: Mapping[str, str]
    ) -> subprocess.CompletedProcess[str]:
        """Run it to its end; return status and output."""

    def start(
        self, arguments: Sequence[str], environ: Mapping[str, str], log: IO[bytes]
    ) -> Process:
        """Start it in a process group of its own, which ends with this process."""


@dataclass(frozen=True)
class Program:
    """Runs ``hotwallet`` as a program."""

    command: Sequence[str]

    def run(
        self, arguments: Sequence[str], environ: Mapping[str, str]
    ) -> subprocess.CompletedProcess[str]:
        """Run it to its end; return status and output."""
        return subprocess.run(
            [*self.command, *arguments],
            env=dict(environ),
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )

    def start(
        self, arguments: Sequence[str], environ: Mapping[str, str], log: IO[bytes]
    ) -> Process:
        """Start it in a process group of its own, which ends with this process."""
        return _start([*self.command, *arguments], environ, log)


CHECKOUT = Program((sys.executable, "-m", "api.cli"))
"""From this checkout."""


@dataclass
class Stack:
    """
    A running system.  ``environ`` is the environment of every process.

    Build it with ``running_stack``.
    """

    home: Path
    environ: dict[str, str]
    url: str
    chain: LocalNode
    token: str
    address: str
    key_id: str
    program: Launcher = CHECKOUT
    processes: dict[str, Process] = field(default_factory=dict)

    @property
    def chain_url(self) -> str:
        """The URL of the chain."""
        return self.chain.url

    def logs(self) -> Mapping[str, Path]:
        """Return the log file of each process."""
        return {name: self.home / f"{name}.log" for name in self.processes}

    def command(self, *arguments: str) -> str:
        """Run ``hotwallet ARGUMENTS`` in the stack's environment; return its output."""
        return hotwallet(self.environ, *arguments, program=self.program)

    @contextlib.contextmanager
    def service(
        self,
        name: str,
        *,
        log: str | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> Iterator[Process]:
        """
        Run ``hotwallet NAME`` while the context is open; *log* names its log.

        Its settings are *environ*, or those of the stack.
        """
        with (self.home / f"{log or name}.log").open("wb") as file:
            process = self.program.start([name], environ or self.environ, file)
        with _ending(process):
            yield process


@contextlib.contextmanager
def running_stack(  # noqa: PLR0913  All but the first have a default.
    home: Path,
    *,
    use_kms: bool = False,
    block_time: int = 1,
    port: int = 0,
    workers: int = 1,
    settings: Mapping[str, str] | None = None,
    has_webhook: bool = False,
    program: Launcher = CHECKOUT,
    kms: "KMSEmulator | GoogleKMSEmulator | None" = None,
    kind: str | None = None,
    chain: contextlib.AbstractContextManager[LocalNode] | None = None,
    rpc_urls: Callable[[str], Sequence[str]] = lambda url: [url],
    edit_networks: Callable[[str], str] = lambda text: text,
    prepare: "Callable[[Stack], None]" = lambda stack: None,
    report: Report = lambda _: None,
) -> Iterator[Stack]:
    """
    Start all processes in the order of their dependencies, and stop them at the end.

    A local chain does not persist, so the ledger starts empty too; the development key
    in the token is kept.  *settings* are added to the environment, *workers*
    processes move refunds, and *report* is called with each step.  With *has_webhook*
    the events of the tenant "developer" are sent to ``hotwallet listen``.  *program* is
    `hotwallet`, if not the one of this checkout.  *kms* holds the key if it
    is given.  On a chain whose *kind* is "arc" or "tempo", the stablecoin pays for gas.
    *chain* is another node than anvil, or eth-tester without it.
    *rpc_urls* returns the nodes before the chain's URL.
    *edit_networks* returns what is written as the networks file, and *prepare* is
    called before the first process of the service starts.

    Raises:
        RuntimeError: A process did not start (the message has the end of its log),
            another stack runs in *home*, or *port* is in use.
    """
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.ExitStack() as cleanup:
        cleanup.enter_context(_lock(home))
        if port:
            _require_free(port)
        for stale in home.glob("hotwallet.db*"):
            stale.unlink()
        environ = _environment(home, port) | dict(settings or {})
        if has_webhook:
            environ["TENANTS_FILE"] = str(_write_tenants(home))
        report("Starting a local chain")
        node = cleanup.enter_context(chain or _local_chain(block_time, kind))
        if kms is not None:
            address, key_id = _use_kms(kms, environ, home)
        elif use_kms:
            report("Starting the KMS emulator and creating a key")
            address, key_id = cleanup.enter_context(_kms_key(home, environ))
        else:
            report("Creating a SoftHSM token with a non-extractable key")
            address, key_id = _softhsm_key(environ, program)
        report("Deploying the test stablecoin and funding the wallet")
        token = stablecoin.deploy_on(node.url, kind)
        stablecoin.fund(node.url, address, token=token, kind=kind)
        node.mine_every(block_time)
        networks = _describe_network(rpc_urls(node.url), token, kind=kind)
        (home / "networks.toml").write_text(edit_networks(networks), encoding="utf-8")
        stack = Stack(
            home=home,
            environ=environ,
            url=f"http://127.0.0.1:{environ['BIND'].rpartition(':')[2]}",
            chain=node,
            token=token,
            address=address,
            key_id=key_id,
            program=program,
        )
        _provide_token_keys(environ)
        prepare(stack)
        report("Starting the API and the worker")
        stack.processes["serve"] = cleanup.enter_context(stack.service("serve"))
        for number in range(1, workers + 1):
            name = "worker" if number == 1 else f"worker-{number}"
            service = stack.service("worker", log=name)
            stack.processes[name] = cleanup.enter_context(service)
        _await_ready(stack)
        yield stack


def _local_chain(block_time: int, kind: str | None) -> LocalNode:
    anvil = obtain_anvil(ROOT)
    # anvil mines each transaction at once until it gets its interval; eth-tester
    # always does.
    return LocalChain(anvil, block_time=None if anvil else block_time, kind=kind)


def hotwallet(
    environ: Mapping[str, str], *arguments: str, program: Launcher = CHECKOUT
) -> str:
    """
    Run a ``hotwallet`` command of *program*; return its output.

    Raises:
        RuntimeError: The command failed; the message is its error output.
    """
    finished = program.run(arguments, environ)
    if finished.returncode != 0:
        raise RuntimeError(
            f"hotwallet {' '.join(arguments)} failed:\n{finished.stderr.strip()}"
        )
    return finished.stdout.strip()


def request(
    method: str,
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    body: object = None,
) -> tuple[int, Mapping[str, str], Any]:
    """
    Send one JSON request to loopback; return status, headers and JSON body.

    Header names are in lower case.
    """
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    sent = urllib.request.Request(  # noqa: S310  # Our own service.
        url,
        None if body is None else json.dumps(body).encode(),
        {"Content-Type": "application/json", **(headers or {})},
        method=method,
    )
    try:
        with opener.open(sent, timeout=30) as response:
            return response.status, _lower(response.headers), json.load(response)
    except urllib.error.HTTPError as response:
        with response:
            return response.code, _lower(response.headers), json.load(response)


def _lower(headers: Message) -> Mapping[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def _require_free(port: int) -> None:
    """Refuse a port in use: its server would be mistaken for the API."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as e:
            raise RuntimeError(
                f"cannot listen on 127.0.0.1:{port} ({e.strerror}): stop the process"
                f" that uses it, or choose another port: `make dev PORT={port + 1}`"
            ) from None


@contextlib.contextmanager
def _lock(home: Path) -> Iterator[None]:
    """Lock *home*: a second stack would delete the ledger of the first."""
    with (home / "stack.lock").open("w") as lock:
        try:
            # The kernel releases the lock when the process ends, also after a crash.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RuntimeError(
                f"another stack runs in {home}: use it, or stop it first"
            ) from None
        yield


def _environment(home: Path, port: int) -> dict[str, str]:
    # The caller's own settings must not reach a local stack.
    return {
        **{name: os.environ[name] for name in _INHERITED if name in os.environ},
        "HOTWALLET_NO_ENV_FILE": "1",
        "APP_ENV": "development",
        "HOTWALLET_HOME": str(home),
        "NETWORKS_FILE": str(home / "networks.toml"),
        "BIND": f"127.0.0.1:{port or free_port()}",
        "WEB_CONCURRENCY": "2",
        "JWT_SIGNING_KEY_FILE": str(home / "jwt.pem"),
        "JWT_PUBLIC_KEY_FILE": str(home / "jwt.pub.pem"),
        "PYTHONUNBUFFERED": "1",
    }


def _softhsm_key(environ: Mapping[str, str], program: Launcher) -> tuple[str, str]:
    created = json.loads(
        hotwallet(environ, "softhsm", "init", "--json", program=program)
    )
    return created["address"], created["key_id"]


@contextlib.contextmanager
def _kms_key(home: Path, environ: dict[str, str]) -> Iterator[tuple[str, str]]:
    ready = home / "kms.ready"
    ready.unlink(missing_ok=True)
    command = ["dev.kms_emulator", "--port", "0", "--create-key"]
    with running_module(
        home, "kms", environ, [*command, "--ready-file", str(ready)]
    ) as process:
        await_start(process, home / "kms.log", ready.exists)
        created = json.loads(ready.read_text(encoding="utf-8"))
        _set_kms(environ, created["arn"], created["region"], created["endpoint"])
        yield created["address"], created["arn"]


def _use_kms(
    kms: "KMSEmulator | GoogleKMSEmulator", environ: dict[str, str], home: Path
) -> tuple[str, str]:
    """Create a key in an emulator of the caller."""
    from dev.google_kms_emulator import GoogleKMSEmulator  # noqa: PLC0415

    if isinstance(kms, GoogleKMSEmulator):
        return _use_google_kms(kms, environ, home)
    arn = kms.create_key()
    _set_kms(environ, arn, kms.region, kms.endpoint)
    return kms.address(arn), arn


def _use_google_kms(
    kms: "GoogleKMSEmulator", environ: dict[str, str], home: Path
) -> tuple[str, str]:
    """Create a key in an emulator of the caller, and credentials for it in *home*."""
    key = kms.create_version()
    environ.update(
        KEY_BACKEND="google-cloud-kms",
        GOOGLE_CLOUD_KMS_KEY=key,
        GOOGLE_CLOUD_KMS_ENDPOINT=kms.endpoint,
        GOOGLE_APPLICATION_CREDENTIALS=str(
            kms.write_credentials(home / "google-credentials.json")
        ),
    )
    return kms.address(key), key


def _set_kms(environ: dict[str, str], arn: str, region: str, endpoint: str) -> None:
    environ.update(
        USE_KMS="true",
        KMS_KEY_ID=arn,
        AWS_REGION=region,
        AWS_ENDPOINT_URL_KMS=endpoint,
        AWS_ACCESS_KEY_ID="local",
        AWS_SECRET_ACCESS_KEY="local",  # noqa: S106  # The emulator does not check it.
        AWS_EC2_METADATA_DISABLED="true",
    )


def _describe_network(rpc_urls: Sequence[str], token: str, *, kind: str | None) -> str:
    of_kind = "confirmations = 2"
    if kind is not None:
        of_kind = f'kind = "{kind}"\ncoin_is = "{SYMBOL}"'
    return f"""\
[networks.{NETWORK}]
chain_id = {CHAIN_ID}
rpc_urls = {json.dumps(list(rpc_urls))}
{of_kind}

[networks.{NETWORK}.tokens.{SYMBOL}]
address = "{token}"
decimals = 6
max_amount = "1000"
"""


def _write_tenants(home: Path) -> Path:
    path = home / "tenants.toml"
    path.write_text(
        f"""\
[tenants.developer]
subjects = ["developer"]
gas_per_hour = 100_000_000_000

[tenants.developer.webhook]
url = "http://127.0.0.1:{free_port()}/"

[tenants.gateway]
subjects = ["gateway"]
gas_per_hour = 100_000_000_000
""",
        encoding="utf-8",
    )
    return path


def _provide_token_keys(environ: Mapping[str, str]) -> None:
    from api.auth.dev_tokens import provide_signing_key  # noqa: PLC0415  It imports slowly.

    provide_signing_key(
        Path(environ["JWT_SIGNING_KEY_FILE"]), Path(environ["JWT_PUBLIC_KEY_FILE"])
    )


@contextlib.contextmanager
def running_module(
    home: Path, name: str, environ: Mapping[str, str], module: list[str]
) -> Iterator[Process]:
    """Run a Python module in its own process group while the context is open."""
    with (home / f"{name}.log").open("wb") as log:
        process = _start([sys.executable, "-m", *module], environ, log)
    with _ending(process):
        yield process


def _start(
    command: Sequence[str], environ: Mapping[str, str], log: IO[bytes]
) -> Process:
    return subprocess.Popen(
        [
            sys.executable,
            ROOT / "dev" / "with_parent.py",
            str(os.getpid()),
            *command,
        ],
        env=dict(environ),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        process_group=0,
    )


@contextlib.contextmanager
def _ending(process: Process) -> Iterator[None]:
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _await_ready(stack: Stack) -> None:
    process = stack.processes["serve"]
    await_start(process, stack.home / "serve.log", lambda: is_ready(stack.url))


def is_ready(url: str) -> bool:
    """Return whether the service at *url* is ready."""
    try:
        return request("GET", f"{url}/readyz")[0] == 200  # noqa: PLR2004
    except OSError:
        return False


def await_start(process: Process, log: Path, ready: Callable[[], bool]) -> None:
    """
    Wait until *process* is *ready*.

    Raises:
        RuntimeError: It ended, or was not ready in time; with the end of its *log*.
    """
    deadline = time.monotonic() + _START_SECONDS
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:]
            raise RuntimeError(
                "\n".join(["it did not start; the end of its log:", *tail])
            )
        time.sleep(0.05)


def default_home() -> Path:
    """Return the folder of the stack: ``.hotwallet/dev`` in the project."""
    return ROOT / ".hotwallet" / "dev"


def selected_device(*known: str) -> str:
    """
    Return the key backend that the environment selects; it is ``pkcs11`` if unset.

    Raises:
        RuntimeError: It is none of *known*, so the stack would sign with another.
    """
    if os.environ.get("USE_KMS", "").lower() == "true":
        return "aws-kms"
    device = os.environ.get("KEY_BACKEND") or "pkcs11"
    if device not in known:
        raise RuntimeError(
            f"KEY_BACKEND={device}: this stack has only {', '.join(known)}; to pay with"
            " a backend of your own, see CONTRIBUTING.md, A backend in an hour"
        )
    return device


def main() -> int:
    """Run the stack until Ctrl-C."""
    for number in (signal.SIGINT, signal.SIGTERM):
        # A shell starts background jobs with SIGINT ignored.
        signal.signal(number, signal.default_int_handler)
    try:
        device = selected_device("pkcs11", "aws-kms")
        with running_stack(
            default_home(),
            use_kms=device == "aws-kms",
            port=read_port(),
            settings=_listen_settings(),
            has_webhook=True,
            report=lambda text: print(text, "...", flush=True),
        ) as stack:
            print(_greeting(stack), flush=True)
            while all(process.poll() is None for process in stack.processes.values()):
                time.sleep(0.5)
            print("A process ended; see the logs in", stack.home, file=sys.stderr)
            return 1
    except KeyboardInterrupt:
        print("\nStopped.")
        return 0
    except RuntimeError as e:
        print(f"error: {e}", file=sys.stderr)
        return 1


def read_port() -> int:
    """
    Return the port that PORT names; 8080 if it is unset.

    Raises:
        RuntimeError: It is not the number of a port.
    """
    text = os.environ.get("PORT") or "8080"
    if re.fullmatch("[0-9]{1,5}", text) and 0 < int(text) <= _HIGHEST_PORT:
        return int(text)
    raise RuntimeError(
        f"PORT={text} is no port: use a number from 1 to {_HIGHEST_PORT}, as in"
        " `make dev PORT=8081`"
    )


def _listen_settings() -> dict[str, str]:
    """Return BIND if HOST is set, as in a container whose port is published."""
    host = os.environ.get("HOST")
    return {"BIND": f"{host}:{read_port()}"} if host else {}


def exports(environ: Mapping[str, str]) -> str:
    """
    Return a shell script that sets the stack's environment in another terminal.

    It includes the variables that the stack inherited.
    """
    lines = [
        f"export {name}={shlex.quote(value)}"
        for name, value in sorted(environ.items())
        if name not in _TERMINAL
    ]
    tools = Path(sys.executable).parent
    lines.append(f'export PATH={shlex.quote(str(tools))}:"$PATH"')
    return "\n".join(lines) + "\n"


def _greeting(stack: Stack) -> str:
    (stack.home / "env").write_text(exports(stack.environ), encoding="utf-8")
    return f"""
The API is at {stack.url}, the chain ({stack.chain.engine}) at {stack.chain_url}.
Refunds are paid in {SYMBOL} ({stack.token}) from {stack.address}.

In another terminal, in this folder:

  source {_relative(stack.home / "env")}
  TOKEN=$(hotwallet token --role merchant)
  curl -s {stack.url}/v1/refunds -H "Authorization: Bearer $TOKEN" \\
    -H "Idempotency-Key: try-1" -H "Content-Type: application/json" \\
    -d '{{"payment_session_id": "ps_1", "network": "{NETWORK}", "token": "{SYMBOL}",
         "recipient": "0x70997970C51812dc3A010C7d01b50e0d17dc79C8", "amount": "12.50"}}'

`hotwallet listen`, in a third terminal, prints the events that the gateway receives.
To receive them with a program of yours, listen at the `url` in
{_relative(stack.home / "tenants.toml")}.
The console is at {stack.url}/console.  This prints a token to log in:

  hotwallet token --role admin --scope console:read --subject alice

Ctrl-C stops all processes.  Logs: {", ".join(map(_relative, stack.logs().values()))}
"""


def _relative(path: Path) -> str:
    return os.path.relpath(path)


if __name__ == "__main__":
    sys.exit(main())
