"""
A service with two tenants, slow screening, and a second network with a slow node.

The tenant ``HOSTILE`` may cause every load that a tenant can.  The chain of the second
network is the first one's, under another number.
"""

import contextlib
import json
import threading
import time
import tomllib
from base64 import b64encode
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from bench.servers import running_service
from bench.service import SUBJECT, Service
from dev.chain import CHAIN_ID
from dev.stack import NETWORK, SYMBOL
from tests.fixtures.fake_node import FakeNode
from tests.fixtures.replies import Delay, Result


HOSTILE = "hostile"
SLOW_NETWORK, SLOW_CALL = "slow", "eth_getStorageAt"

TO_APPROVE, ABOVE_LIMIT = "900", "899.5"
"""Amounts of refunds that wait for an approval, and for a limit."""

_SECONDS = 0.2  # For a slow call, and for a question about a recipient.
_CHAIN_ID = CHAIN_ID + 1

_TENANTS = f"""\
[tenants.{SUBJECT}]
subjects = ["{SUBJECT}"]
gas_per_hour = 100_000_000_000

[tenants.{HOSTILE}]
subjects = ["{HOSTILE}"]
max_open_refunds = 100_000
requests_per_minute = 10_000_000
gas_per_hour = 100_000_000_000

[tenants.{HOSTILE}.networks.{NETWORK}.tokens.{SYMBOL}]
max_amount = "{TO_APPROVE}"
daily_limit = "{TO_APPROVE}"
approve_above = "{ABOVE_LIMIT}"
"""

_RULE = f"""\
@id("messages")
permit (principal == Tenant::"{HOSTILE}", action == Action::"sign-message", resource);
"""


@contextlib.contextmanager
def two_tenants(folder: Path) -> Iterator[Service]:
    """Run the service with its files in *folder*."""
    rules, secret = folder / "rules", folder / "screening.secret"
    tenants = folder / "tenants.toml"
    rules.mkdir()
    (rules / "messages.cedar").write_text(_RULE)
    secret.write_text(f"whsec_{b64encode(bytes(32)).decode()}\n")
    secret.chmod(0o600)
    tenants.write_text(_TENANTS)
    with contextlib.ExitStack() as cleanup:

        def add_network(networks: str) -> str:
            """Append the second one, whose node is a proxy of the first one's."""
            (url,) = tomllib.loads(networks)["networks"][NETWORK]["rpc_urls"]
            node = cleanup.enter_context(FakeNode(url))
            node.script("eth_chainId", Result(hex(_CHAIN_ID)))
            node.script(SLOW_CALL, Delay(_SECONDS, Result("0x0")))
            second = networks.replace(url, node.url)
            second = second.replace(f"networks.{NETWORK}", f"networks.{SLOW_NETWORK}")
            return networks + second.replace(str(CHAIN_ID), str(_CHAIN_ID))

        settings = {
            "TENANTS_FILE": str(tenants),
            "POLICY_DIR": str(rules),
            # So the peer of a request is what its client says.
            "TRUSTED_PROXIES": "127.0.0.1",
            "SCREENING_URL": cleanup.enter_context(_screening()),
            "SCREENING_SECRET_FILE": str(secret),
        }
        yield cleanup.enter_context(
            running_service(
                folder / "stack", settings=settings, edit_networks=add_network
            )
        )


class _Screening(BaseHTTPRequestHandler):
    """Allows each address, after a while."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Answer one question."""
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        time.sleep(_SECONDS)
        body = json.dumps({"address": asked["address"], "allowed": True}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@contextlib.contextmanager
def _screening() -> Iterator[str]:
    """Run the service that screens recipients; yield its URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Screening)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
