"""The fixtures of a service and a client of it."""

from tests.api.conftest import clock, container, hotwallet, node, pace


__all__ = ["clock", "container", "hotwallet", "node", "pace"]
