"""Production signs with a network HSM: SoftHSM under another name, behind p11-kit."""

import ssl
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from uuid import uuid4

import pytest

from api.auth.dev_tokens import mint, provide_signing_key
from backends.pkcs11 import PKCS11Backend
from dev.stack import request
from signer.config.settings import Settings
from signer.crypto.der import parse_public_key
from signer.ports.key_backend import KeyId
from softhsm.layout import CONF_VARIABLE, Layout
from tests.api.commands import Run
from tests.e2e.dependencies import prepared_networks, service_environ
from tests.e2e.running_service import RunningService
from tests.fixtures.chain import DevChain
from tests.fixtures.p11_kit import ADDRESS_VARIABLE, Network
from tests.fixtures.tls_server import self_signed
from tests.support.waiting import eventually


pytestmark = pytest.mark.needs("cc", "p11-kit")

LOCAL, NEVER_EXTRACTABLE = "163", "164"


@contextmanager
def _https(folder: Path, target: str) -> Iterator[str]:
    """Serve a node's HTTP at *target* over TLS; yield its URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            kind = {"Content-Type": "application/json"}
            with urllib.request.urlopen(
                urllib.request.Request(target, body, kind), timeout=30
            ) as response:
                content = response.read()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Do not log."""

    self_signed(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "fullchain.pem", folder / "privkey.pem")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"https://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def device(
    p11_kit_network: Network, stand_in_environ: dict[str, str]
) -> Iterator[Network]:
    """The network with another device, the one of a production."""
    p11_kit_network.restart(**stand_in_environ)
    yield p11_kit_network
    p11_kit_network.restart()


@pytest.fixture
def environ(
    tmp_path: Path,
    fresh_anvil: DevChain,
    softhsm: PKCS11Backend,
    softhsm_key: KeyId,
    softhsm_home: Path,
    p11_kit_module: Path,
    device: Network,
) -> Iterator[dict[str, str]]:
    """Production on one machine, with SQLite."""
    address = parse_public_key(softhsm.public_key(softhsm_key)).address
    with _https(tmp_path, fresh_anvil.url) as url:
        networks, _ = prepared_networks(
            tmp_path, fresh_anvil.url, address, node_url=url, confirmations=2
        )
        tenants = tmp_path / "tenants.toml"
        tenants.write_text('[tenants.shop]\nsubjects = ["shop"]\n', encoding="utf-8")
        provide_signing_key(tmp_path / "jwt.pem", tmp_path / "jwt.pub.pem")
        made = service_environ(tmp_path, networks)
        del made["JWT_SECRET"]
        yield {
            **made,
            ADDRESS_VARIABLE: device.address,
            "APP_ENV": "production",
            "KEY_BACKEND": "pkcs11",
            "PKCS11_KEY_ID": softhsm_key,
            "PKCS11_MODULE": str(p11_kit_module),
            "PKCS11_TOKEN_LABEL": softhsm._session._token_name,
            "PKCS11_PIN_FILE": str(Layout.of(softhsm_home).pin),
            "WALLET_ADDRESS": address,
            "TENANTS_FILE": str(tenants),
            "AUDIT_SIGNING_KEY_FILE": str(tmp_path / "audit.pem"),
            "JWT_ALGORITHM": "ES256",
            "JWT_PUBLIC_KEY_FILE": str(tmp_path / "jwt.pub.pem"),
            "SSL_CERT_FILE": str(tmp_path / "fullchain.pem"),
            "REQUESTS_CA_BUNDLE": str(tmp_path / "fullchain.pem"),
        }


def _token(environ: Mapping[str, str], folder: Path) -> str:
    settings = Settings.from_env(
        {**environ, "APP_ENV": "test", "JWT_SIGNING_KEY_FILE": str(folder / "jwt.pem")}
    )
    return mint(settings, subject="shop", roles=["merchant"])


def test_production_pays_with_a_proved_key_only(
    environ: dict[str, str],
    tmp_path: Path,
    hotwallet: Run,
    monkeypatch: pytest.MonkeyPatch,
    fresh_anvil: DevChain,
    device: Network,
    stand_in_environ: dict[str, str],
) -> None:
    """Each weakness is refused by name; without one, a refund is paid."""
    monkeypatch.delenv(CONF_VARIABLE)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    made = hotwallet("audit", "key", "--out", environ["AUDIT_SIGNING_KEY_FILE"])
    assert made.status == 0, made.err
    upgraded = hotwallet("db", "upgrade", "--create")
    assert upgraded.status == 0, upgraded.err
    accepted = hotwallet("guard", "--json")
    assert accepted.status == 0, accepted.json
    assert accepted.json["warnings"] == []
    for variables, code in (
        ({"STAND_IN_FALSE": LOCAL}, "pkcs11-key-imported"),
        ({"STAND_IN_FALSE": NEVER_EXTRACTABLE}, "pkcs11-key-exposed"),
        ({"WALLET_ADDRESS": "0x" + "11" * 20}, "key-not-in-ring"),
        ({"PKCS11_PIN": "1234"}, "pkcs11-pin-exposed"),
        ({"STAND_IN_NAME": "SoftHSM"}, "softhsm-module-forbidden"),
    ):
        with monkeypatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            device.restart(**stand_in_environ | variables)
            refused = hotwallet("guard", "--json")
            codes = [each["code"] for each in refused.json["refusals"]]
            assert (refused.status, codes) == (78, [code]), variables
    device.restart(**stand_in_environ)

    with RunningService(environ, names=["up"]) as service:
        url = f"http://127.0.0.1:{service.port}/v1/refunds"
        headers = {"Authorization": f"Bearer {_token(environ, tmp_path)}"}
        status, _, refund = request(
            "POST",
            url,
            headers={**headers, "Idempotency-Key": uuid4().hex},
            body={
                "payment_session_id": "1",
                "reference": "1",
                "network": "local",
                "token": "TUSD",
                "recipient": fresh_anvil.deployer,
                "amount": "1.5",
            },
        )
        assert status == 201, refund

        def is_confirmed() -> bool:
            fresh_anvil.mine()
            shown = request("GET", f"{url}/{refund['id']}", headers=headers)[2]
            return bool(shown["status"] == "confirmed")

        assert eventually(is_confirmed, 60), service.output
    assert "NOT SAFE" not in "".join(service.output.values())
