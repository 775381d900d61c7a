"""The fixtures of a service on anvil, and of its command line."""

from tests.api.cli.conftest import networks, node_url, run, world
from tests.api.conftest import hotwallet, log


__all__ = ["hotwallet", "log", "networks", "node_url", "run", "world"]
