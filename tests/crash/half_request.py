"""A request whose answer nobody reads."""

import json
import socket
from urllib.parse import urlsplit


def send_and_forget(url: str, raw: bytes) -> None:
    """
    Send ``eth_sendRawTransaction`` to the node at *url*, and read nothing.

    The kernel delivers what was sent even when the process dies at once.
    """
    call = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "eth_sendRawTransaction",
        "params": [f"0x{raw.hex()}"],
    }
    body = json.dumps(call).encode()
    parts = urlsplit(url)
    head = (
        f"POST / HTTP/1.1\r\nHost: {parts.netloc}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    # Not closed on purpose: the caller's death closes it.
    connection = socket.create_connection((parts.hostname or "", parts.port or 80))
    connection.sendall(head.encode() + body)
