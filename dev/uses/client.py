"""Asks for the tokens with both clients, and verifies a webhook."""

import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

from hotwallet_client import AsyncHotWallet, HotWallet, WebhookError, verify_webhook


class _Service(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert (self.path, self.headers["Authorization"]) == ("/v1/tokens", "Bearer t")
        body = json.dumps({"tokens": [{"token": "TUSD", "decimals": 6}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


async def _ask(url: str) -> int:
    async with AsyncHotWallet(url, "t") as client:
        return (await client.tokens())[0]["decimals"]


with HTTPServer(("127.0.0.1", 0), _Service) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    with HotWallet(address, "t") as client:
        (token,) = client.tokens()
        assert token["decimals"] == 6
    assert asyncio.run(_ask(address)) == 6
    server.shutdown()

try:
    verify_webhook(b"{}", {}, ["whsec_c2VjcmV0"])
except WebhookError:
    pass
else:
    raise AssertionError("a message without a signature was accepted")
