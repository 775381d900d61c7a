"""
Drives a proxy's plan from another process: a line of JSON each way.

Each line is a call of a method of ``Plan``: ``{"do": "blackout", "seconds": 2}``.
"""

import asyncio
import json
import socket
from collections import Counter
from types import TracebackType
from typing import Any, Self

from tests.crash.faults import Fault, Kind, Odds, Plan


async def serve_control(
    plan: Plan, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Obey one connection."""
    while line := await reader.readline():
        writer.write(json.dumps(_obey(plan, json.loads(line))).encode() + b"\n")
        await writer.drain()


def _obey(plan: Plan, order: dict[str, Any]) -> Any:
    match order.pop("do"):
        case "script":
            faults = (Fault.from_json(given) for given in order["faults"])
            plan.script(order["name"], *faults)
        case "seed":
            odds = tuple((Fault.from_json(f), float(p)) for f, p in order["odds"])
            plan.seed(order["seed"], odds, only=frozenset(order["only"]))
        case "blackout":
            plan.blackout(order["seconds"])
        case "heal":
            plan.heal()
        case "committed":
            return [[*key, count] for key, count in plan.committed().items()]
    return None


class RemotePlan:
    """The plan of a proxy in another process; methods as those of ``Plan``."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self._lines = self._socket.makefile("rwb")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._lines.close()
        self._socket.close()

    def script(self, name: str, *faults: Fault) -> None:
        """Let *faults* befall the next requests called *name*, one each."""
        self._do("script", name=name, faults=[fault.to_json() for fault in faults])

    def seed(
        self, seed: int, odds: Odds, *, only: frozenset[str] = frozenset()
    ) -> None:
        """Draw a fault for every request, or for those called one of *only*."""
        drawn = [[fault.to_json(), chance] for fault, chance in odds]
        self._do("seed", seed=seed, odds=drawn, only=sorted(only))

    def blackout(self, seconds: float) -> None:
        """Reset every connection that stirs, from now on for *seconds*."""
        self._do("blackout", seconds=seconds)

    def heal(self) -> None:
        """Forget all that was planned."""
        self._do("heal")

    def committed(self) -> Counter[tuple[str, Kind]]:
        """Return how often each kind of fault befell each name."""
        counts = self._do("committed")
        return Counter({(name, Kind(kind)): count for name, kind, count in counts})

    def _do(self, order: str, **arguments: Any) -> Any:
        self._lines.write(json.dumps({"do": order, **arguments}).encode() + b"\n")
        self._lines.flush()
        return json.loads(self._lines.readline())
