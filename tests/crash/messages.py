"""HTTP and JSON-RPC, as far as a proxy must understand them."""

import asyncio
import json
import time
from collections import deque
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any


LARGEST = 32 * 1024 * 1024

# Reads whose answers age: what a node that lags behind would still say.
AGEING = frozenset(
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
        """All of it."""
        return self.head + self.body

    @property
    def name(self) -> str:
        """What plans call the request: a JSON-RPC method, or a KMS operation."""
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
    Return the next message, or None when the other side has no more.

    Raises:
        ValueError: It is chunked, or says no length, which none of ours does.
        EOFError: It ends in the middle.
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
    """Return the answer of a gateway that could not, or would not, ask the node."""
    phrase = HTTPStatus(status).phrase
    body = f"<html><body>{status} {phrase}</body></html>".encode()
    return _response(f"{status} {phrase}", "text/html", body)


def json_message(document: Any) -> bytes:
    """Return the answer of a node that says *document*."""
    return _response("200 OK", "application/json", json.dumps(document).encode())


def _response(status: str, kind: str, body: bytes) -> bytes:
    lines = [
        f"HTTP/1.1 {status}",
        f"Content-Type: {kind}",
        f"Content-Length: {len(body)}",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


class Memory:
    """What the node said, and when: answers from it are stale and were once true."""

    def __init__(self) -> None:
        self._said: dict[str, deque[tuple[float, Any]]] = {}

    def keep(self, question: Message, answer: Message) -> None:
        """Remember the results in *answer* to the ageing reads in *question*."""
        results = {
            said.get("id"): said["result"]
            for said in answer.calls()
            if "result" in said
        }
        for call in question.calls():
            if call.get("method") in AGEING and call.get("id") in results:
                history = self._said.setdefault(_key(call), deque(maxlen=256))
                history.append((time.monotonic(), results[call["id"]]))

    def answer(self, question: Message, age: float) -> bytes | None:
        """Return what was said *age* seconds ago, or None if a call is not known."""
        document = json.loads(question.body)
        calls = question.calls()
        if not calls or any(_key(call) not in self._said for call in calls):
            return None
        answers = [self._answer(call, time.monotonic() - age) for call in calls]
        return json_message(answers if isinstance(document, list) else answers[0])

    def _answer(self, call: dict[str, Any], moment: float) -> dict[str, Any]:
        history = self._said[_key(call)]
        past = [result for at, result in history if at <= moment]
        result = past[-1] if past else history[0][1]
        return {"jsonrpc": "2.0", "id": call.get("id"), "result": result}


def _key(call: dict[str, Any]) -> str:
    return json.dumps([call.get("method"), call.get("params")])
