"""The fixtures of a service and a client of it."""

from tests.api.conftest import (
    _described,
    client,
    clock,
    container,
    log,
    node,
    pace,
    paying,
    paying_container,
)


__all__ = [
    "_described",
    "client",
    "clock",
    "container",
    "log",
    "node",
    "pace",
    "paying",
    "paying_container",
]
