"""Refunds a second through the whole stack, gunicorn to chain."""

import http.client
import json
import statistics
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dev.stack import NETWORK, SYMBOL, Stack, running_stack


_RECIPIENT = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"


def refunds_per_second(folder: Path, seconds: float) -> Mapping[str, Any]:
    """Return rates and latencies of ``POST /v1/refunds`` from 1 and 8 clients."""
    with running_stack(folder / "stack") as stack:
        token = stack.command("token", "--role", "merchant")
        results: dict[str, Any] = {}
        for clients in (1, 8):
            taken = _load(stack, token, clients=clients, seconds=seconds / 2)
            results[f"{clients} clients: refunds a second"] = round(
                len(taken) / (seconds / 2), 1
            )
            results[f"{clients} clients: median ms"] = round(
                statistics.median(taken) * 1000, 1
            )
    return results


def _load(stack: Stack, token: str, *, clients: int, seconds: float) -> list[float]:
    taken: list[float] = []
    end = time.perf_counter() + seconds

    def run(client: int) -> None:
        connection = http.client.HTTPConnection(urlsplit(stack.url).netloc, timeout=30)
        number = 0
        while time.perf_counter() < end:
            started = time.perf_counter()
            post(connection, token, f"bench-{clients}-{client}-{number}")
            taken.append(time.perf_counter() - started)
            number += 1
        connection.close()

    running = [threading.Thread(target=run, args=(i,)) for i in range(clients)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return taken


def post(connection: http.client.HTTPConnection, token: str, name: str) -> None:
    """
    Ask for the refund *name*, and wait for the answer.

    Raises:
        RuntimeError: It was not created.
    """
    body = {
        "payment_session_id": name,
        "network": NETWORK,
        "token": SYMBOL,
        "recipient": _RECIPIENT,
        "amount": "0.01",
    }
    connection.request(
        "POST",
        "/v1/refunds",
        json.dumps(body),
        {
            "Authorization": f"Bearer {token}",
            "Content-Type": "application/json",
            "Idempotency-Key": name,
        },
    )
    answer = connection.getresponse()
    content = answer.read()
    if answer.status != http.client.CREATED:
        raise RuntimeError(f"POST answered {answer.status}: {content[:300]!r}")
