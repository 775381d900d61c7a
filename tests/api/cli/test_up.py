"""``hotwallet up``, ``guard``, ``health`` and ``token``."""

import contextlib
import os
import signal
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Event

import jwt
import pytest

from api.auth.dev_tokens import mint, provide_signing_key
from api.bootstrap import build_container, record_start
from api.cli.worker import run_together
from api.server.probe import connect_address
from backends.sql import SQLStore
from bench.processes import children
from dev.kms_emulator import KMSEmulator
from dev.ports import free_port
from dev.stack import request
from signer.config.settings import CREDENTIALS, Settings
from tests.api.commands import Run
from tests.api.service import BODY
from tests.e2e.dependencies import kms_settings, prepared_networks, service_environ
from tests.fixtures.chain import DevChain
from tests.fixtures.ledger import forge
from tests.support.forked_processes import run_command
from tests.support.ledgers import seal, write_mac_key
from tests.support.programs import ROOT
from tests.support.waiting import eventually


_WAITING = """\
import os, pathlib, signal, sys
path, status = pathlib.Path(sys.argv[1]), int(sys.argv[2])
ended = []
signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
path.with_suffix(".new").write_text(str(os.getpid()))
path.with_suffix(".new").rename(path)
while not ended:
    signal.pause()
sys.exit(status)
"""


"""Writes its id to a file, and ends with a status when it gets SIGTERM."""


@dataclass
class Pair:
    """Two programs that run together, in a thread of their own."""

    folder: Path
    stop: Event = field(default_factory=Event)
    executor: ThreadPoolExecutor = field(default_factory=ThreadPoolExecutor)

    def start(self, *commands: Sequence[str]) -> "Future[int]":
        return self.executor.submit(run_together, commands, self.stop)

    def waiting(self, name: str, status: int = 0) -> Sequence[str]:
        """Return a program that waits for SIGTERM, and then ends with *status*."""
        path = str(self.folder / name)
        return [sys.executable, "-c", _WAITING, path, str(status)]

    def pid(self, name: str) -> int:
        path = self.folder / name
        assert eventually(path.exists, 30)
        return int(path.read_text())


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    pair = Pair(tmp_path)
    yield pair
    pair.stop.set()
    pair.executor.shutdown()


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_both_run_until_they_are_stopped(pair: Pair) -> None:
    """Each gets SIGTERM once, and both have ended before the command ends."""
    status = pair.start(pair.waiting("one"), pair.waiting("other"))
    pids = [pair.pid("one"), pair.pid("other")]
    was_running = not status.done()
    pair.stop.set()

    assert status.result(30) == 0
    assert was_running
    assert [pid for pid in pids if _is_running(pid)] == []


@pytest.mark.parametrize("first", [0, 1])
def test_one_that_ends_ends_the_other(pair: Pair, first: int) -> None:
    """The status is that of the first that ended."""
    ready = pair.waiting("waiting", status=5)
    script = f"while [ ! -e {pair.folder}/waiting ]; do sleep 0.01; done; exit 3"
    commands = [["sh", "-c", script], ready]
    status = pair.start(*(commands if first == 0 else reversed(commands)))

    assert status.result(30) == 3
    assert not _is_running(pair.pid("waiting"))


def test_one_that_is_killed_ends_the_other(pair: Pair) -> None:
    """A signal is shown as shells show it."""
    status = pair.start(pair.waiting("one"), pair.waiting("other"))
    other = pair.pid("other")
    os.kill(pair.pid("one"), signal.SIGKILL)

    assert status.result(30) == 128 + signal.SIGKILL
    assert not _is_running(other)


def test_a_stop_returns_the_status_of_a_process_that_fails(pair: Pair) -> None:
    status = pair.start(pair.waiting("one", status=4), pair.waiting("other"))
    pair.pid("one"), pair.pid("other")
    pair.stop.set()

    assert status.result(30) == 4


# The tests themselves may run under `nohup`, which ignores SIGHUP in all its children.
_UP = """
import os, signal, sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)
os.execv(sys.executable, [sys.executable, "-m", "api.cli", "up"])
"""


def _up(environ: Mapping[str, str], **streams: object) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
        [sys.executable, "-c", _UP], cwd=ROOT, env=environ, **streams
    )


def _descendants(pid: int) -> list[int]:
    found = [pid]
    for each in found:
        found += children(each)
    return found[1:]


@dataclass(frozen=True)
class System:
    """A running ``hotwallet up``, with an emulated KMS and a chain."""

    process: "subprocess.Popen[bytes]"
    url: str
    environ: Mapping[str, str]
    members: list[int] = field(default_factory=list)

    def is_ready(self) -> bool:
        with contextlib.suppress(OSError):
            return request("GET", f"{self.url}/readyz")[0] == 200
        return False


@pytest.fixture
def system(
    tmp_path: Path, fresh_anvil: DevChain, aws_environment: None
) -> Iterator[System]:
    port = free_port()
    with KMSEmulator() as kms:
        key = kms.create_key()
        networks, _ = prepared_networks(
            tmp_path, fresh_anvil.url, kms.address(key), node_url=fresh_anvil.url
        )
        environ = service_environ(
            tmp_path,
            networks,
            **kms_settings(key, kms.region, kms.endpoint),
            BIND=f"127.0.0.1:{port}",
            WEB_CONCURRENCY="1",
        )
        with (
            (tmp_path / "output").open("wb") as output,
            _up(environ, stdout=output, stderr=output) as process,
        ):
            system = System(process, f"http://127.0.0.1:{port}", environ)
            try:
                assert eventually(system.is_ready, 60)
                system.members.extend(_descendants(process.pid))
                yield system
            finally:
                left = {*system.members, *_descendants(process.pid), process.pid}
                for pid in left:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)


def test_a_refund_is_paid_and_sigterm_ends_both(system: System) -> None:
    """The API accepts the refund, the worker sends it, and the status is 0."""
    token = mint(Settings.from_env(system.environ), subject="m", roles=["merchant"])
    status, _, answer = request(
        "POST",
        f"{system.url}/v1/refunds",
        headers={"Authorization": f"Bearer {token}", "Idempotency-Key": "k"},
        body={**BODY, "amount": "1"},
    )
    system.process.send_signal(signal.SIGTERM)
    ended = system.process.wait(60)

    assert (status, answer["status"]) == (201, "broadcast")
    assert ended == 0
    assert len(system.members) == 3  # A worker, gunicorn, and a worker of gunicorn.
    assert [pid for pid in system.members if _is_running(pid)] == []


def test_a_closed_terminal_ends_both(system: System) -> None:
    """It sends SIGHUP, and the two are in sessions that it does not reach."""
    system.process.send_signal(signal.SIGHUP)

    assert system.process.wait(60) == 0
    assert [pid for pid in system.members if _is_running(pid)] == []


def test_a_refusal_ends_both(tmp_path: Path) -> None:
    """Status 78, so that a supervisor does not try again."""
    environ = service_environ(tmp_path, tmp_path / "missing.toml")
    with _up(environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        _, errors = process.communicate(timeout=60)

    assert process.returncode == 78
    assert b"refused: networks-misconfigured" in errors
    assert b"Traceback" not in errors


# ``hotwallet guard``: its refusals, and what it says about a process of a role.

NETWORKS = Path(__file__).parents[3] / "docker" / "networks.example.toml"


@pytest.fixture
def process_for_refunds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sqlite_url: str
) -> pytest.MonkeyPatch:
    """The environment of a process that serves refunds only, with a ledger."""
    for name in CREDENTIALS:
        monkeypatch.delenv(name, raising=False)
    provide_signing_key(tmp_path / "private.pem", tmp_path / "public.pem")
    for name, value in {
        "APP_ENV": "test",
        "SERVE_ROLE": "refunds",
        "HOTWALLET_HOME": str(tmp_path),
        "DATABASE_URL": sqlite_url,
        "NETWORKS_FILE": str(NETWORKS),
        "JWT_PUBLIC_KEY_FILE": str(tmp_path / "public.pem"),
    }.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


@pytest.mark.usefixtures("process_for_refunds")
def test_a_process_for_refunds_passes_without_a_key(
    hotwallet: Run, tmp_path: Path
) -> None:
    """It opens no device, asks no node, and makes no token."""
    shown, document = hotwallet("guard"), hotwallet("guard", "--json")

    assert (shown.status, document.status) == (0, 0), shown.err
    assert shown.out.splitlines()[0] == "ok: test, accepting refunds, without a key"
    assert "warning" not in shown.err
    assert {"ok": True, "role": "refunds", "address": None, "warnings": []}.items() <= (
        document.json.items()
    )
    assert not (tmp_path / "softhsm").exists()


def test_a_refused_start_is_recorded(
    process_for_refunds: pytest.MonkeyPatch,
    hotwallet: Run,
    sqlite_store: SQLStore,
    tmp_path: Path,
) -> None:
    """Once the log has begun: the limits of a new ledger need no approval."""
    process_for_refunds.setenv("MAC_KEY_FILE", str(write_mac_key(tmp_path)))
    process_for_refunds.setenv("REQUIRE_APPROVALS", "true")
    record_start(build_container(), "worker")
    forge(sqlite_store, "UPDATE accepted_limits SET document = '[]', version = 1")
    found = []
    for _ in range(2):
        assert hotwallet("guard").status == 78
        seal(sqlite_store)
        found += [each.record.fields for each in sqlite_store.sealed(0, 9)]

    (refusal,) = (each for each in found if each["event"] == "service-start-refused")
    assert (refusal["actor"], refusal["outcome"]) == ("refunds", "limits-raised")
    assert refusal["details"] == {"codes": "limits-raised"}


def test_refusals_for_programs(
    hotwallet: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Status 78, one object on standard output, and a line per refusal on stderr."""
    monkeypatch.setenv("APP_ENV", "production")
    monkeypatch.setenv("NETWORKS_FILE", str(tmp_path / "missing.toml"))
    finished = hotwallet("guard", "--json")

    codes = [refusal["code"] for refusal in finished.json["refusals"]]
    messages = [refusal["message"] for refusal in finished.json["refusals"]]
    assert (finished.status, finished.json["ok"]) == (78, False)
    assert {"networks-misconfigured", "kms-not-configured"} <= set(codes)
    assert finished.err.splitlines() == [
        f"refused: {code}: {message}"
        for code, message in zip(codes, messages, strict=True)
    ]


def test_both_files_are_reported_once(
    hotwallet: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Limits of tenants need the networks, whose problem is not repeated."""
    tenants = tmp_path / "tenants.toml"
    monkeypatch.setenv("APP_ENV", "test")
    monkeypatch.setenv("NETWORKS_FILE", str(tmp_path / "missing.toml"))
    monkeypatch.setenv("TENANTS_FILE", str(tenants))
    found = []
    for text in ("", "[tenants.a]\nsubjects = ['a']"):
        tenants.write_text(text, encoding="utf-8")
        refusals = hotwallet("guard", "--json").json["refusals"]
        found.append([refusal["code"] for refusal in refusals])

    both, networks = found
    assert both.count("networks-misconfigured") == 1
    assert both.count("tenants-misconfigured") == 1
    assert networks.count("networks-misconfigured") == 1
    assert "tenants-misconfigured" not in networks


# ``hotwallet health`` asks the API of its host, as the health check of the image.


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b'{"status": "ok"}'
        self.send_response(200 if self.path == "/healthz" else 503)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Log nothing."""

    def address_string(self) -> str:
        return "unix"


class _UnixServer(socketserver.UnixStreamServer):
    """The same on a Unix socket."""


class _MailHandler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.request.sendall(b"220 mail.example.com\r\n")


@contextmanager
def _served(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _health(bind: str, *options: str) -> tuple[int, str]:
    environ = {"BIND": bind, "APP_ENV": "test", "HOTWALLET_NO_ENV_FILE": "1"}
    finished = run_command(["health", *options], environ)
    return finished.returncode, finished.stdout + finished.stderr


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    server = HTTPServer(("0.0.0.0", 0), _Handler)
    with _served(server):
        yield server.server_port


def test_an_api_that_answers_is_healthy(port: int) -> None:
    """Also if it listens on all addresses, as in a container."""
    assert _health(f"0.0.0.0:{port}") == (0, '{"status": "ok"}\n')
    assert _health(f"127.0.0.1:{port}")[0] == 0


def test_it_may_be_alive_and_not_ready(port: int) -> None:
    """The answer says why."""
    assert _health(f"127.0.0.1:{port}", "--ready") == (1, '{"status": "ok"}\n')


def test_a_unix_socket_is_asked_too(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    with _served(_UnixServer(str(path), _Handler)):
        assert _health(f"unix:{path}")[0] == 0


def test_a_port_without_a_server_is_not_healthy() -> None:
    status, output = _health(f"127.0.0.1:{free_port()}")

    assert (status, output) == (1, "nothing answers at BIND (ConnectionRefusedError)\n")


def test_another_protocol_is_not_healthy() -> None:
    server = socketserver.TCPServer(("127.0.0.1", 0), _MailHandler)
    with _served(server):
        status, output = _health(f"127.0.0.1:{server.server_address[1]}")

    assert (status, output) == (1, "nothing answers at BIND (ConnectionError)\n")


def test_a_malformed_address_is_a_usage_error() -> None:
    status, output = _health("here:there:80")

    assert status == 2
    assert "BIND is not HOST:PORT or unix:PATH" in output


@pytest.mark.parametrize(
    ("bind", "address"),
    [
        ("0.0.0.0:8080", ("127.0.0.1", 8080)),
        (":8080", ("127.0.0.1", 8080)),
        ("[::]:8080", ("::1", 8080)),
        ("[::1]:8080", ("::1", 8080)),
        ("tcp://10.0.0.1:80", ("10.0.0.1", 80)),
        ("localhost", ("localhost", 8000)),
    ],
)
def test_it_connects_to_where_the_api_listens(
    bind: str, address: tuple[str, int]
) -> None:
    assert connect_address(bind) == address


# ``hotwallet token`` mints tokens for development.


@pytest.fixture
def run(hotwallet: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("APP_ENV", "test")
    monkeypatch.setenv("JWT_ALGORITHM", "HS256")
    monkeypatch.setenv("JWT_SECRET", "s" * 32)
    return hotwallet


def test_prints_the_token_alone(run: Run) -> None:
    minted = run("token", "--role", "admin", "--subject", "alice").out.strip()
    claims = jwt.decode(minted, options={"verify_signature": False})

    assert (claims["sub"], claims["roles"]) == ("alice", ["admin"])


def test_prints_what_the_token_grants_as_json(run: Run) -> None:
    document = run("token", "--scope", "keys:rotate", "--seconds", "60", "--json").json

    assert document.pop("token").count(".") == 2
    assert document == {
        "subject": "developer",
        "roles": ["merchant"],
        "scopes": ["keys:rotate"],
        "expiresIn": 60,
    }
