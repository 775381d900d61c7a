"""The parts of HTTP and JSON-RPC that the fault proxy parses."""

import asyncio
import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any


LARGEST = 32 * 1024 * 1024

# A node that lags gives old responses to these.
_STALE = frozenset(
    {
        "eth_blockNumber",
        "eth_getBlockByNumber",
        "eth_getTransactionCount",
        "eth_getTransactionReceipt",
    }
)


@dataclass(frozen=True, slots=True)
class Message:
    """An HTTP request or response as it came; *fields* have lower-case names."""

    head: bytes
    fields: dict[str, str]
    body: bytes

    @property
    def raw(self) -> bytes:
        return self.head + self.body

    @property
    def name(self) -> str:
        """The request's name in plans: a JSON-RPC method, or a KMS operation."""
        if target := self.fields.get("x-amz-target"):
            return target.rpartition(".")[2]
        calls = self.calls()
        return str(calls[0].get("method", "")) if calls else ""

    def calls(self) -> list[dict[str, Any]]:
        """Return the JSON-RPC calls in the body; a batch holds several, or none."""
        try:
            document = json.loads(self.body)
        except ValueError:
            return []
        calls = document if isinstance(document, list) else [document]
        return [call for call in calls if isinstance(call, dict)]


async def read_message(reader: asyncio.StreamReader) -> Message | None:
    """
    Return the next message, or None at the end of the stream.

    Raises:
        ValueError: It is chunked or too large.
        EOFError: The stream ends inside a message.
    """
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as e:
        if e.partial:
            raise
        return None
    fields = _fields(head)
    if "transfer-encoding" in fields:
        raise ValueError("a chunked message")
    length = int(fields.get("content-length", "0"))
    if length > LARGEST:
        raise ValueError("the message is too large")
    return Message(head, fields, await reader.readexactly(length))


def _fields(head: bytes) -> dict[str, str]:
    lines = head.decode("latin-1").split("\r\n")[1:]
    pairs = (line.partition(":") for line in lines if line)
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def status_message(status: int) -> bytes:
    """Return a gateway's error response with *status*."""
    phrase = HTTPStatus(status).phrase
    body = f"<html><body>{status} {phrase}</body></html>".encode()
    return _response(f"{status} {phrase}", "text/html", body)


def json_message(document: Any) -> bytes:
    """Return a node's response with *document*."""
    return _response("200 OK", "application/json", json.dumps(document).encode())


def _response(status: str, kind: str, body: bytes) -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class ResponseHistory:
    """Earlier results of a node with their times, for stale responses."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._results: dict[str, deque[tuple[float, Any]]] = {}

    def keep(self, request: Message, response: Message) -> None:
        """Keep the results in *response* of reads that can be stale."""
        results = {
            each.get("id"): each["result"]
            for each in response.calls()
            if "result" in each
        }
        for call in request.calls():
            if call.get("method") in _STALE and call.get("id") in results:
                history = self._results.setdefault(_key(call), deque(maxlen=256))
                history.append((self._clock(), results[call["id"]]))

    def find(self, request: Message, age: float) -> bytes | None:
        """Return the response of *age* seconds ago, or None for an unknown request."""
        document = json.loads(request.body)
        calls = request.calls()
        if not calls or any(_key(call) not in self._results for call in calls):
            return None
        responses = [self._find(call, self._clock() - age) for call in calls]
        return json_message(responses if isinstance(document, list) else responses[0])

    def _find(self, call: dict[str, Any], moment: float) -> dict[str, Any]:
        history = self._results[_key(call)]
        past = [result for at, result in history if at <= moment]
        result = past[-1] if past else history[0][1]
        return {"jsonrpc": "2.0", "id": call.get("id"), "result": result}


def _key(call: dict[str, Any]) -> str:
    return json.dumps([call.get("method"), call.get("params")])
