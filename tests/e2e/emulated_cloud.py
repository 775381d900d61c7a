"""
A host and its cloud, on which the commands of a page run as they are written.

``python -m tests.e2e.emulated_cloud PAGE FOLDER`` needs namespaces of its own for
mounts, the network and processes (unshare(1)): it has ports 443 and 5432, another
``/etc``, ``/opt`` and ``/var/log``, and names that lead to this host.  It runs the
console blocks of PAGE, and prints a report of each step with another output.

The cloud has AWS KMS (our emulator), the machine's metadata, PostgreSQL behind TLS,
three nodes (one anvil), and an issuer of tokens.
"""

import fcntl
import json
import os
import re
import socket
import ssl
import struct
import subprocess
import sys
import textwrap
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from uuid import uuid4

import jwt
from cryptography.hazmat.primitives.asymmetric import ec

from dev import stablecoin
from dev.anvil import ROOT, obtain_anvil
from dev.chain import LocalChain
from dev.kms_emulator import KMSEmulator
from dev.rpc import RPC
from tests.api.issuer import jwk
from tests.e2e.console import Console, read_blocks, run_block
from tests.fixtures.tls_server import TLSServer, self_signed
from tests.support.servers import LocalHandler, LocalServer, nginx, postgresql
from tests.support.waiting import eventually


_ADDRESS = "127.0.0.2"  # nginx listens on 127.0.0.1.
_METADATA = "169.254.169.254"
_IFF_UP, _SIOCSIFFLAGS, _SIOCSIFADDR = 1, 0x8914, 0x8916
_NODES = [f"node{number}.provider.test" for number in (1, 2, 3)]
_KMS = "kms.eu-central-1.amazonaws.com"
_SERVED = (_KMS, *_NODES, "login.example.com", "alerts.example.com")
_PASSWORD = "of-the-superuser"
# PostgreSQL refuses to run as root, which another namespace calls a user.
_AS_A_USER = ("unshare", "--user", "--map-user=70", "--map-group=70")
_TRUST = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE")


class Cloud:
    """What the host reaches by HTTP: each name has its answers."""

    def __init__(self, kms: KMSEmulator, chain: LocalChain) -> None:
        self.upstreams = {_KMS: kms.endpoint, **dict.fromkeys(_NODES, chain.url)}
        self._key = ec.generate_private_key(ec.SECP256R1())

    def answer(self, host: str, path: str) -> bytes:
        """Return the answer of *host*, or of the metadata, to a request."""
        match host, path:
            case "login.example.com", "/jwks.json":
                document: object = {"keys": [jwk("ES256", self._key)]}
            case "login.example.com", "/token":
                document = {"access_token": self._token()}
            case "alerts.example.com", _:
                document = {}
            case _, "/latest/api/token":
                return b"session"
            case _, "/latest/meta-data/iam/security-credentials/":
                return b"hotwallet-runtime"
            case _:
                document = {
                    "Code": "Success",
                    "AccessKeyId": "local",
                    "SecretAccessKey": "local",
                    "Token": "local",
                    "Expiration": "2099-01-01T00:00:00Z",
                }
        return json.dumps(document).encode()

    def forward(self, host: str, headers: Mapping[str, str], body: bytes) -> bytes:
        """Send a request to the emulator or the chain; return the answer."""
        kept = {n: v for n, v in headers.items() if n.lower() != "accept-encoding"}
        upstream = urllib.request.Request(self.upstreams[host], body, kept)
        with urllib.request.urlopen(upstream, timeout=30) as response:
            content: bytes = response.read()
        return content

    def _token(self) -> str:
        now = int(time.time())
        claims = {
            "iss": "https://login.example.com/",
            "aud": "hotwallet-production",
            "sub": "shop",
            "roles": ["merchant"],
            "iat": now,
            "nbf": now,
            "exp": now + 300,
            "jti": uuid4().hex,
        }
        headers = {"kid": "a", "typ": "at+jwt"}
        return jwt.encode(claims, self._key, "ES256", headers)


class _Server(LocalServer):
    def __init__(self, cloud: Cloud, port: int, address: str) -> None:
        super().__init__(_Handler, port, address)
        self.cloud = cloud


class _Handler(LocalHandler):
    server: _Server

    def respond(self) -> None:
        """Answer a request, or forward it."""
        host = self.headers.get("Host", "").partition(":")[0]
        body, cloud = self.read_body(), self.server.cloud
        if host in cloud.upstreams:
            self.answer(200, cloud.forward(host, dict(self.headers), body))
        else:
            self.answer(200, cloud.answer(host, self.path))


@contextmanager
def _serving(cloud: Cloud, folder: Path) -> Iterator[Path]:
    """Serve the cloud's names over TLS, and the metadata; yield the certificate."""
    made = folder / "cloud-tls"
    made.mkdir()
    self_signed(made, *_SERVED)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made / "fullchain.pem", made / "privkey.pem")
    secure, plain = _Server(cloud, 443, _ADDRESS), _Server(cloud, 80, _METADATA)
    secure.socket = context.wrap_socket(secure.socket, server_side=True)
    with secure, plain:
        yield made / "fullchain.pem"


def _open_loopback() -> None:
    """Bring the loopback interface up, with the metadata's address (netdevice(7))."""
    up = struct.pack("16sh14x", b"lo", _IFF_UP)
    address = ("16sHH4s8x", b"lo:1", socket.AF_INET, 0, socket.inet_aton(_METADATA))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SIOCSIFFLAGS, up)
        fcntl.ioctl(control, _SIOCSIFADDR, struct.pack(*address))


def _prepare_host(folder: Path) -> None:
    """Give this host its own /etc, /opt and /var/log, and the cloud's names."""
    _open_loopback()
    for name, place in (("etc", "/etc"), ("opt", "/opt"), ("log", "/var/log")):
        (folder / name).mkdir()
        if name == "etc":  # Without what only root of the machine may read.
            copied = ["cp", "-a", "/etc/.", str(folder / name)]
            subprocess.run(copied, check=False, stderr=subprocess.DEVNULL)
        subprocess.run(["mount", "--bind", folder / name, place], check=True)
    hosts = [f"{_ADDRESS} {name}" for name in _SERVED]
    hosts += [
        f"127.0.0.1 {n}" for n in ("localhost", "db.example.com", "refunds.example.com")
    ]
    Path("/etc/hosts").write_text("\n".join(hosts) + "\n", encoding="utf-8")
    with Path("/etc/passwd").open("a", encoding="utf-8") as users:
        users.write("database:x:70:70::/:/bin/sh\n")
    for made in ("/etc/nginx/tls", "/etc/systemd/system", "/var/log/nginx"):
        Path(made).mkdir(parents=True, exist_ok=True)
    Path("/opt/hotwallet/bin").mkdir(parents=True)
    Path("/opt/hotwallet/bin/hotwallet").symlink_to(
        Path(sys.executable).with_name("hotwallet")
    )
    Path("/opt/hotwallet/src").symlink_to(ROOT)
    self_signed(Path("/etc/nginx/tls"), "refunds.example.com")


def _start_database(folder: Path) -> Path:
    """Start PostgreSQL on a socket in *folder*; return its programs."""
    programs = postgresql(user=None)
    (folder / "password").write_text(_PASSWORD, encoding="utf-8")
    data = folder / "data"
    with (folder / "postgres.log").open("wb") as log:
        subprocess.run(
            [
                *_AS_A_USER,
                programs / "initdb",
                "--username=postgres",
                "--auth=scram-sha-256",
                f"--pwfile={folder / 'password'}",
                "--no-sync",
                f"--pgdata={data}",
            ],
            check=True,
            stdout=log,
            stderr=log,
            cwd=folder,
        )
        subprocess.Popen(
            [
                *_AS_A_USER,
                *(programs / "postgres", "-D", data, "--fsync=off"),
                *("--listen_addresses=", f"--unix_socket_directories={folder}"),
            ],
            stdout=log,
            stderr=log,
            cwd=folder,
        )
    socket = folder / ".s.PGSQL.5432"
    assert eventually(socket.exists, 30), (folder / "postgres.log").read_text()
    return programs


def _write_programs(folder: Path, programs: Path, networks: str) -> None:
    """Write what the page's reader has: psql, systemd, and hands for an editor."""
    (folder / "home").mkdir()
    secret = folder / "home" / ".pgpass"
    secret.write_text(f"*:*:*:postgres:{_PASSWORD}\n", encoding="utf-8")
    secret.chmod(0o600)
    python = f"PYTHONPATH={ROOT} {sys.executable}"
    socket = f"s|db.example.com||; s|sslmode.*|host={folder}|"
    scripts = {
        # The server's own psql may have no TLS; hotwallet itself connects by TLS.
        "psql": f"""\
            for each in "$@"; do
              shift
              set -- "$@" "$(sed '{socket}' <<< "$each")"
            done
            exec {programs}/psql --no-psqlrc "$@"
            """,
        "systemctl": f"""\
            export CLOUD={folder} PROXY={nginx()}
            {python} -m tests.e2e.systemd_stand_in "$@"
            """,
        "edit": networks,
    }
    for name, text in scripts.items():
        path = folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/bash\n{textwrap.dedent(text)}", encoding="utf-8")
        path.chmod(0o755)


def _edits(tokens: Mapping[str, str]) -> str:
    """Return what the reader does in the editor: settings 8 to 12."""
    urls = json.dumps([f"https://{node}/" for node in _NODES])
    addresses = "\n".join(
        f'/tokens.{name}/,/^address/ s|^address = .*|address = "{address}"|'
        for name, address in tokens.items()
    )
    networks = f"""
s|^rpc_urls = .*|rpc_urls = {urls}|
s|^kind = .*|confirmations = 2|
s|^# daily_limit|daily_limit|
{addresses}
"""
    return f"""\
sed -i '{networks}' networks.toml
sed -i 's|^subjects = .*|subjects = ["shop"]|' tenants.toml
sed -i 's|^ALERT_WEBHOOK_URL=.*|ALERT_WEBHOOK_URL=https://alerts.example.com/1|' *.env
"""


def run(page: Path, folder: Path) -> None:
    """Run the console blocks of *page*, print what differs, and end."""
    with ExitStack() as opened:
        _prepare_host(folder)
        kms = opened.enter_context(KMSEmulator())
        chain = opened.enter_context(LocalChain(obtain_anvil(ROOT), block_time=1))
        arn = kms.create_key()
        tokens = {name: stablecoin.deploy(chain.url) for name in ("USDC", "USDT")}
        for token in tokens.values():
            stablecoin.fund(chain.url, kms.address(arn), token=token)
        RPC(chain.url)("anvil_setChainId", 1)
        trusted = opened.enter_context(_serving(Cloud(kms, chain), folder))
        programs = _start_database(folder)
        (folder / "db-tls").mkdir()
        target = folder / ".s.PGSQL.5432"
        database = opened.enter_context(
            TLSServer(folder / "db-tls", "db.example.com", target, 5432)
        )
        bundle = folder / "trusted.pem"
        certificates = (
            trusted,
            database.certificate,
            Path("/etc/nginx/tls/fullchain.pem"),
        )
        bundle.write_bytes(b"".join(path.read_bytes() for path in certificates))
        _write_programs(folder, programs, _edits(tokens))
        os.environ["HOME"] = str(folder / "home")
        os.environ["PATH"] = f"{folder / 'bin'}:{os.environ['PATH']}"
        (documented,) = set(re.findall(r"arn:aws:kms:\S+", page.read_text()))
        texts = {documented: arn, "listen 443": "listen 127.0.0.1:443"}
        shell = Console(folder, texts)
        for name in _TRUST:
            shell.run(f"export {name}={bundle}")
        shell.run("export EDITOR=edit CLIENT=shop:secret")
        reports = []
        for block in read_blocks(page):
            reports += run_block(shell, block)
            if reports:
                break
        shell.close()
        if reports:
            for log in sorted(folder.glob("*.log")):
                tail = log.read_text(errors="replace").splitlines()[-25:]
                reports.append("\n".join([log.name, *tail]))
        sys.stdout.write("\n\n".join(reports))
        sys.stdout.flush()
        os._exit(0)  # The namespace ends, and all processes in it.


if __name__ == "__main__":
    run(Path(sys.argv[1]), Path(sys.argv[2]))
