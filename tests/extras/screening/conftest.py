"""The fixtures of a service and a client of it."""

from tests.api.conftest import _described, clock, node, pace


__all__ = ["_described", "clock", "node", "pace"]
