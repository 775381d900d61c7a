"""
An attacker who reads all memory of a process that faces the internet.

``hotwallet serve --role refunds`` runs on a host that has every secret for signing.
The attacker finds none of them in its processes, and no library that could use one.
"""

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from botocore.session import Session  # type: ignore[import-untyped]

from api.auth.dev_tokens import mint, provide_signing_key
from backends.sql import sqlite_dbapi
from bench.processes import children
from dev.ports import free_port
from dev.stack import request
from signer.config.settings import CREDENTIALS, RAW_KEY, Settings
from tests.api.service import BODY
from tests.support.ledgers import write_mac_key
from tests.support.waiting import eventually


HOTWALLET = str(Path(sys.executable).with_name("hotwallet"))

# The paths of modules' code objects, which stay in memory once a module is imported.
LIBRARIES = (
    "botocore/session.py",
    "botocore/client.py",
    "boto3/session.py",
    "backends/aws_kms/backend.py",
    "backends/pkcs11/backend.py",
    "pkcs11/__init__.py",
    "softhsm/library.py",
)

NETWORKS = """
[networks.local]
chain_id = 31337
rpc_urls = ["http://127.0.0.1:9"]

[networks.local.tokens.TUSD]
address = "0x5FbDB2315678afecb367f032d93F642f64180aa3"
decimals = 6
max_amount = "1000"
"""


@dataclass(frozen=True)
class Host:
    """A host with secrets in its files, and the environment of a process on it."""

    folder: Path
    planted: Mapping[str, bytes]
    environ: Mapping[str, str]
    url: str

    def serve(self, **variables: str) -> "subprocess.Popen[bytes]":
        """Start the process for refunds in the folder of the host."""
        with (self.folder / "output").open("wb") as output:
            return subprocess.Popen(
                [HOTWALLET, "serve", "--role", "refunds"],
                cwd=self.folder,
                env={**self.environ, **variables},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def output(self) -> str:
        return (self.folder / "output").read_text(encoding="utf-8")

    def answers(self) -> bool:
        """Return whether the process answers requests."""
        with contextlib.suppress(OSError):
            return request("GET", f"{self.url}/healthz")[0] == 200
        return False

    def post(self) -> tuple[int, str]:
        """Request a refund; return the status of the response and of the refund."""
        settings = Settings.from_env(
            {**self.environ, "JWT_SIGNING_KEY_FILE": str(self.folder / "private.pem")}
        )
        token = mint(settings, subject="gateway", roles=["merchant"])
        headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": "k"}
        headers["Prefer"] = "respond-async"
        url = f"{self.url}/v1/refunds"
        status, _, document = request("POST", url, headers=headers, body=BODY)
        return status, document["status"]


def _prepare(tmp_path: Path, ledger: Path) -> Host:
    """Return a host on which a worker could sign, with a copy of *ledger*."""
    home, service = tmp_path / "user", tmp_path / "hotwallet"
    planted = {
        name: secrets.token_hex(24).encode()
        for name in ("AWS secret", "PIN", "SO PIN", "token", "audit key", "raw key")
    }
    files = {
        home / ".aws" / "credentials": (
            b"[default]\naws_access_key_id = AKIAIOSFODNN7EXAMPLE\n"
            b"aws_secret_access_key = " + planted["AWS secret"]
        ),
        home / ".aws" / "config": b"[default]\nregion = eu-central-1\n",
        service / "softhsm" / "pin": planted["PIN"],
        service / "softhsm" / "so-pin": planted["SO PIN"],
        service / "softhsm" / "tokens" / "1" / "token.object": planted["token"],
        service / "audit.pem": planted["audit key"],
        home / "raw-key": planted["raw key"],
        tmp_path / "networks.toml": NETWORKS.encode(),
        service / "hotwallet.db": ledger.read_bytes(),
    }
    for path, content in files.items():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(0o600)
    provide_signing_key(tmp_path / "private.pem", tmp_path / "public.pem")
    port = free_port()
    # The register of stops in the ledger has a MAC of this key.
    write_mac_key(service).rename(service / "mac.key")
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "APP_ENV": "test",
        "HOTWALLET_HOME": str(service),
        "NETWORKS_FILE": str(tmp_path / "networks.toml"),
        "JWT_PUBLIC_KEY_FILE": str(tmp_path / "public.pem"),
        "BIND": f"127.0.0.1:{port}",
        "WEB_CONCURRENCY": "1",
    }
    return Host(tmp_path, planted, environ, f"http://127.0.0.1:{port}")


@pytest.fixture
def host(tmp_path: Path, _sqlite_template: Path) -> Host:
    return _prepare(tmp_path, _sqlite_template)


@dataclass(frozen=True)
class Serving:
    """A host with a process for refunds: gunicorn, and its worker."""

    host: Host
    gunicorn: int
    worker: int

    @property
    def processes(self) -> tuple[int, int]:
        return self.gunicorn, self.worker


@pytest.fixture(scope="module")
def serving(
    tmp_path_factory: pytest.TempPathFactory, _sqlite_template: Path
) -> Iterator[Serving]:
    """A process that has accepted a refund."""
    host = _prepare(tmp_path_factory.mktemp("host"), _sqlite_template)
    with host.serve() as process:
        try:
            assert eventually(host.answers, 60), host.output()
            assert host.post() == (201, "queued")
            (worker,) = children(process.pid)
            yield Serving(host, process.pid, worker)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def _mapped_files(pid: int) -> set[str]:
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return {line.split(maxsplit=5)[5] for line in lines if line.count("/")}


def _memory(pid: int) -> Iterator[bytes]:
    """Yield the content of each readable mapping of a process."""
    maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in maps:
            span, permissions = line.split()[:2]
            if not permissions.startswith("r") or line.endswith(("[vvar]", "call]")):
                continue
            first, last = (int(each, 16) for each in span.split("-"))
            with contextlib.suppress(OSError):  # The kernel's own pages.
                memory.seek(first)
                content = bytearray()
                while len(content) < last - first:
                    part = memory.read(last - first - len(content))
                    if not part:
                        break
                    content += part
                yield bytes(content)


def _found(pid: int, sought: Iterable[bytes]) -> set[bytes]:
    """Return what of *sought* is in the memory of a process."""
    left, found = {*sought}, set[bytes]()
    for content in _memory(pid):
        found |= {each for each in left if each in content}
        left -= found
    return found


def _raw(text: bytes) -> bytes:
    return bytes.fromhex(text.decode())


def test_no_secret_for_signing_is_in_a_process(serving: Serving) -> None:
    """Neither in its environment nor in its memory, where the key for MACs is."""
    host = serving.host
    (line,) = (host.folder / "hotwallet" / "mac.key").read_text().splitlines()
    known = {bytes.fromhex(line.split()[1]), b"backends/sql/store.py"}
    secrets_of_keys = {*host.planted.values(), *map(_raw, host.planted.values())}
    sought = {*secrets_of_keys, *map(str.encode, LIBRARIES)}

    assert _found(serving.worker, {*known, *sought}) == known
    assert _found(serving.gunicorn, sought) == set()
    for pid in serving.processes:
        environ = Path(f"/proc/{pid}/environ").read_bytes()
        assert [each for each in secrets_of_keys if each in environ] == []


def test_no_library_for_signing_is_loaded(serving: Serving) -> None:
    """No shared object of PKCS#11 is mapped into a process."""
    for pid in serving.processes:
        mapped = _mapped_files(pid)

        assert any("apsw" in path for path in mapped)
        assert [
            path
            for path in mapped
            if any(name in path.lower() for name in ("pkcs11", "softhsm", "boto"))
        ] == []


def test_the_search_would_find_them(host: Host) -> None:
    """In a process that reads the secrets and imports the libraries."""
    paths = [path for path in host.folder.rglob("*") if path.is_file()]
    program = (
        "import sys, boto3.session, botocore.client\n"
        "import backends.aws_kms.backend, backends.pkcs11.backend, softhsm.library\n"
        "kept = [open(path, 'rb').read() for path in sys.argv[1:]]\n"
        "print('ready', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, *map(str, paths)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        sought = {*host.planted.values(), *map(str.encode, LIBRARIES)}
        found = _found(process.pid, sought)
        mapped = _mapped_files(process.pid)
        process.communicate()

    assert found == sought
    assert any("pkcs11" in path for path in mapped)


def test_its_start_is_recorded_and_not_sealed(serving: Serving) -> None:
    """It has no audit key, so it leaves sealing to the processes that have one."""
    path = serving.host.folder / "hotwallet" / "hotwallet.db"
    with contextlib.closing(sqlite_dbapi.connect(path)) as ledger:
        rows = ledger.execute("SELECT body, sequence FROM audit_records").fetchall()
    details = [json.loads(body)["details"] for body, _ in rows]

    assert [each.get("process") for each in details if "process" in each] == ["refunds"]
    assert {sequence for _, sequence in rows} == {None}


def test_it_refuses_to_start_with_secrets(host: Host) -> None:
    """It names the variables and not their values, and does not listen."""
    values = {name: host.planted["AWS secret"].decode() for name in CREDENTIALS}
    with host.serve(**values) as process:
        assert process.wait(60) == 78
    # Some of these settings are also refused because they need others.
    start = "refused: role-has-credentials: "
    (refusal,) = [each for each in host.output().splitlines() if start in each]

    assert refusal.endswith(f"unset {', '.join(CREDENTIALS)}")
    assert values[CREDENTIALS[0]] not in host.output()
    assert "listening" not in host.output()


def test_it_refuses_to_start_with_a_planted_env_file(host: Host) -> None:
    """The raw key is in ``.env``, which ``hotwallet`` loads outside production."""
    path = host.folder / ".env"
    path.write_text(f"{RAW_KEY}={host.planted['raw key'].decode()}\n")
    path.chmod(0o600)
    with host.serve() as process:
        assert process.wait(60) == 78

    assert "refused: role-has-credentials: " in host.output()
    assert f"unset {RAW_KEY}\n" in host.output()
    assert host.planted["raw key"].decode() not in host.output()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("AWS_CREDENTIAL_FILE", "AWSAccessKeyId=AKIA\nAWSSecretKey=secret\n"),
        (
            "BOTO_CONFIG",
            "[Credentials]\naws_access_key_id = AKIA\naws_secret_access_key = secret\n",
        ),
    ],
)
def test_an_old_file_of_credentials_is_seen(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    aws_environment: None,
    name: str,
    content: str,
) -> None:
    """botocore still reads what earlier SDKs wrote; the guard names the variable."""
    path = tmp_path / "credentials"
    path.write_text(content)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY", raising=False)
    monkeypatch.setenv(name, str(path))

    assert Session().get_credentials().access_key == "AKIA"
    assert Settings.from_env({name: str(path)}).credentials == (name,)
