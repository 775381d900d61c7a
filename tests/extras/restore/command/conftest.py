"""The fixtures of commands, over a ledger with refunds."""

from tests.api.cli.conftest import networks, node_url, run, world
from tests.api.conftest import clock, hotwallet, log


__all__ = ["clock", "hotwallet", "log", "networks", "node_url", "run", "world"]
