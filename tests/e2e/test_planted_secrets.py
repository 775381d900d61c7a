"""
G19: real processes, full of planted secrets, whose dependencies fail one by one.

Everything that gets out is looked through: output, logs, answers, metrics, exports,
alerts and command lines.  Two things show a whole key id on purpose, and are not looked
at: ``softhsm init``, which tells the id of the key that it made, and the command line
of ``keys rotate``, whose argument it is.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from dev import kms_faults as faults
from dev.kms_emulator import KMSEmulator
from tests.fixtures.postgresql import PostgreSQL
from tests.support.canaries import ALL, CANARIES, Detector, value


ROOT = Path(__file__).parents[2]


class Echo(ThreadingHTTPServer):
    """A node, an issuer and a webhook at once: it refuses with all that it knows."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.came: list[str] = []

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.server_address[1])


class _Handler(BaseHTTPRequestHandler):
    server: Echo

    def do_POST(self) -> None:
        """Refuse, and repeat the URL, the headers and every canary."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if "/services/" in self.path:
            self.server.came.append(body.decode())
        said = f"{self.path} {self.headers} {ALL}".encode()
        self.send_response(503, "Unavailable")
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    do_GET = do_POST  # noqa: N815  The name that the library looks for.

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def echo() -> Iterator[Echo]:
    """The one server that everything is pointed to."""
    with Echo() as server:
        threading.Thread(target=server.serve_forever, args=(0.05,)).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def kms(aws_environment: None) -> Iterator[KMSEmulator]:
    """A KMS that refuses everything, and says why."""
    with KMSEmulator() as emulator:
        for operation in ("GetPublicKey", "Sign", "DescribeKey"):
            emulator.faults.always(
                operation, faults.refuse("AccessDeniedException", ALL)
            )
        yield emulator


@dataclass(frozen=True)
class Run:
    """One command, in an environment that differs from the good one."""

    name: str
    command: tuple[str, ...]
    changes: Mapping[str, str]
    status: int


def _good(home: Path, echo: Echo) -> dict[str, str]:
    """Return an environment in which all but the nodes is well; write its files."""
    home.mkdir(mode=0o700, exist_ok=True)
    login = f"{value('rpc-user')}:{value('rpc-password')}@"
    urls = [
        f"http://{login}127.0.0.1:{echo.port}{value('rpc-path-key')}",
        f"http://127.0.0.1:{echo.port}{value('rpc-query-key')}",
    ]
    files = {
        "networks.toml": (
            f"[networks.local]\nchain_id = 31337\nrpc_urls = {json.dumps(urls)}\n"
            "rpc_timeout_ms = 500\n[networks.local.tokens.TUSD]\ndecimals = 6\n"
            'address = "0x5FbDB2315678afecb367f032d93F642f64180aa3"\n'
            'max_amount = "1000"\n'
        ),
        "audit.pem": value("audit-signing-key"),
        "garbage.pem": value("audit-garbage-key"),
        "jwt.pem": value("jwt-signing-key"),
        "open-pin": value("pkcs11-pin-file"),
    }
    for name, content in files.items():
        (home / name).write_text(content, encoding="utf-8")
        (home / name).chmod(0o644 if name == "open-pin" else 0o600)
    kept = ("PATH", "LANG", "PKCS11_MODULE")
    return {
        **{name: os.environ[name] for name in kept if name in os.environ},
        "APP_ENV": "development",
        "HOTWALLET_HOME": str(home),
        "NETWORKS_FILE": str(home / "networks.toml"),
        "PKCS11_PIN": value("pkcs11-pin"),
        "PKCS11_KEY_ID": value("cka-id"),
        "JWT_ALGORITHM": "HS256",
        "JWT_SECRET": value("jwt-hmac-secret"),
        "JWT_SIGNING_KEY_FILE": str(home / "jwt.pem"),
        "AUDIT_SIGNING_KEY_FILE": str(home / "audit.pem"),
        "ALERT_WEBHOOK_URL": (
            f"http://127.0.0.1:{echo.port}{value('webhook-path-token')}"
            f"{value('webhook-query-token')}"
        ),
        "MERCHANT_WALLET_PRIVATE_KEY": value("raw-key"),
        "AWS_ACCESS_KEY_ID": value("aws-access-key"),
        "AWS_SECRET_ACCESS_KEY": value("aws-secret-key"),
        "AWS_SESSION_TOKEN": value("aws-session-token"),
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "KMS_MAX_RETRIES": "1",
        "KMS_TIMEOUT_MS": "900",
        "NO_PROXY": "127.0.0.1",
    }


def _dsn(place: str) -> str:
    login = f"{value('dsn-user')}:{value('dsn-password')}"
    return f"postgresql://{login}@{place}"


def _runs(home: Path, echo: Echo, kms: KMSEmulator, server: PostgreSQL) -> list[Run]:
    """Return every failure that is staged, with the status that it must end with."""
    down = {"DATABASE_URL": _dsn(f"127.0.0.1:1/{value('dsn-database')}")}
    unknown = {
        "DATABASE_URL": _dsn(f"/{value('dsn-database')}?host={server.folder}"),
    }
    refusing = {
        "USE_KMS": "true",
        "KMS_KEY_ID": value("kms-key-arn"),
        "AWS_REGION": value("aws-region"),
        "AWS_ENDPOINT_URL_KMS": kms.endpoint,
        "DATABASE_URL": f"sqlite:///{home}/kms.db",
    }
    nobody = refusing | {
        "AWS_ENDPOINT_URL_KMS": f"http://127.0.0.1:1{value('kms-endpoint-path')}"
    }
    other = {"DATABASE_URL": f"sqlite:///{home}/other.db"}
    issuer = {
        "JWT_ALGORITHM": "ES256",
        "JWT_SECRET": "",
        "JWT_JWKS_URL": f"http://127.0.0.1:{echo.port}{value('jwks-url-key')}",
    }
    no_jwks = issuer | {"JWT_JWKS_URL": f"http://127.0.0.1:1{value('jwks-url-key')}"}
    mixed_up = {
        "PKCS11_KEY_ID": value("pkcs11-pin"),
        "NODE_COUNT": value("dsn-password"),
        "WALLET_ADDRESS": value("raw-key"),
        "TRUSTED_PROXIES": value("jwks-url-key"),
        "JWT_ALGORITHM": value("jwt-admin"),
        "AUDIT_ORIGIN": value("kms-alias-arn") + "+",
    }
    rotate = ("keys", "rotate", value("cka-id-rotated-to"))
    guard = ("guard",)
    return [
        Run("nodes refuse", guard, {}, 78),
        Run("nodes refuse, worker", ("worker", "--once"), {}, 78),
        Run("nodes refuse, serve", ("serve",), {"BIND": "127.0.0.1:0"}, 78),
        Run("nodes refuse, doctor", ("doctor", "--json"), {}, 1),
        Run("nodes refuse, debug", guard, {"DEBUG": "true"}, 78),
        Run("keys", ("keys", "list", "--json"), {}, 0),
        Run("no such key to rotate to", rotate, {}, 1),
        Run("no such refund", ("refund", "explain", value("raw-key-bare")), {}, 1),
        Run("export", ("audit", "export"), {}, 0),
        Run("checkpoint", ("audit", "checkpoint", "--new"), {}, 0),
        Run("softhsm doctor", ("softhsm", "doctor"), {}, 0),
        Run("database down", guard, down, 78),
        Run("database down, doctor", ("doctor",), down, 1),
        Run("database down, keys", ("keys", "list"), down, 78),
        Run("database down, export", ("audit", "export"), down, 78),
        Run("no such role", guard, unknown, 78),
        Run("no such role, rotate", rotate, unknown, 78),
        Run("no such role, refund", ("refund", "explain", "rf_0"), unknown, 78),
        Run("KMS refuses", guard, refusing, 78),
        Run("KMS refuses, doctor", ("doctor", "--json"), refusing, 1),
        Run(
            "KMS refuses, rotate",
            ("keys", "rotate", value("kms-alias-arn")),
            refusing,
            1,
        ),
        Run("no KMS", guard, nobody, 78),
        Run("wrong PIN", guard, {"PKCS11_PIN": value("pkcs11-wrong-pin")}, 78),
        Run(
            "open PIN file",
            guard,
            {"PKCS11_PIN": "", "PKCS11_PIN_FILE": f"{home}/open-pin"},
            78,
        ),
        Run(
            "missing key", guard, other | {"PKCS11_KEY_ID": value("cka-id-missing")}, 78
        ),
        Run("issuer refuses", guard, issuer, 78),
        Run("no issuer", guard, no_jwks, 78),
        Run(
            "no audit key", guard, {"AUDIT_SIGNING_KEY_FILE": f"{home}/garbage.pem"}, 78
        ),
        Run("mixed up", guard, mixed_up, 78),
        Run("too much", ("keys", "list", value("kms-key-arn")), {}, 2),
    ]


def _hotwallet(
    environ: Mapping[str, str], *command: str
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "api.cli", *command],
        cwd=ROOT,
        env=dict(environ),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


class _Watch(threading.Thread):
    """Looks at every command line on the machine, as ``ps`` does."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.seen: set[str] = set()
        self._over = threading.Event()

    def run(self) -> None:
        """Look ten times a second."""
        while not self._over.wait(0.1):
            self.look()

    def look(self) -> None:
        """Look once."""
        for process in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                line = (
                    process.read_bytes().replace(b"\0", b" ").decode(errors="replace")
                )
            except OSError:
                continue
            if "hotwallet" in line or "api." in line:
                self.seen.add(line)

    def stop(self) -> str:
        """Return what was seen but the ids that were given as arguments."""
        self._over.set()
        self.join()
        told = (" rotate ", " explain ", " list ")
        return "\n".join(line for line in self.seen if not any(t in line for t in told))


@pytest.mark.soak
def test_no_failure_tells_a_secret(
    tmp_path: Path, echo: Echo, kms: KMSEmulator, postgresql: PostgreSQL
) -> None:
    """Thirty failures of real processes: nothing that gets out holds a canary."""
    detector = Detector(CANARIES.values())
    home = tmp_path / "home"
    environ = _good(home, echo)
    made = _hotwallet(environ, "softhsm", "init")
    assert made.returncode == 0, made.stderr
    _hotwallet(environ, "guard")  # Enrols the key, so that it is in the ring.
    runs = _runs(home, echo, kms, postgresql)
    watch = _Watch()
    watch.start()

    with ThreadPoolExecutor(3) as pool:
        done = list(
            pool.map(lambda r: _hotwallet(environ | r.changes, *r.command), runs)
        )
    shown = {"ps": watch.stop(), "alerts": "\n".join(echo.came)}
    for run, finished in zip(runs, done, strict=True):
        shown[f"{run.name}: stdout"] = finished.stdout
        shown[f"{run.name}: stderr"] = finished.stderr
    wrong = {
        run.name: (finished.returncode, finished.stderr[-500:])
        for run, finished in zip(runs, done, strict=True)
        if finished.returncode != run.status
    }

    assert wrong == {}
    assert any("rotation-refused" in alert for alert in echo.came)
    assert "api.cli" in shown["ps"]
    assert detector.leaks(shown) == {}
    assert detector.checked >= 50 * 60
