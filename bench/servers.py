"""Starts the service on a local chain, and a server that answers a constant."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.service import Service
from dev import stablecoin
from dev.anvil import ROOT
from dev.ports import free_port
from dev.rpc import RPC
from dev.stack import (
    CHECKOUT,
    Launcher,
    Stack,
    await_start,
    is_ready,
    running_module,
    running_stack,
)


# More than any run sends, so that the chain is never full.
_BLOCK_GAS = 1_000_000_000
_WEI = 10**21
_TOKENS = 10**12

program: Launcher = CHECKOUT
"""Starts ``hotwallet``; a scenario, which has a process of its own, may set it."""


@contextlib.contextmanager
def running_service(
    home: Path,
    *,
    settings: Mapping[str, str] | None = None,
    workers: int = 1,
    address: str | None = None,
    edit_networks: Callable[[str], str] = lambda text: text,
    prepare: Callable[[Stack], None] = lambda stack: None,
) -> Iterator[Service]:
    """
    Run the stack in *home*, on a chain whose blocks are never full.

    *address* is that of the key in *settings*, unless it is in the stack's own token.
    *edit_networks* returns what is written as the networks file, and *prepare* is
    called before the service starts.
    """
    with running_stack(
        home,
        settings=settings,
        workers=workers,
        edit_networks=edit_networks,
        prepare=prepare,
        program=program,
    ) as stack:
        stack.address = address or stack.address
        RPC(stack.chain_url)("evm_setBlockGasLimit", hex(_BLOCK_GAS))
        stablecoin.fund(
            stack.chain_url, stack.address, token=stack.token, amount=_TOKENS, wei=_WEI
        )
        yield Service(stack)


@dataclass(frozen=True, slots=True)
class ConstantServer:
    """gunicorn with ``bench.constant``; it was ready after ``start_seconds``."""

    url: str
    pid: int
    start_seconds: float


@contextlib.contextmanager
def constant_server(service: Service) -> Iterator[ConstantServer]:
    """Run gunicorn with ``bench.constant``."""
    home, bind = service.stack.home, f"127.0.0.1:{free_port()}"
    environ = {**service.stack.environ, "BIND": bind, "PYTHONPATH": str(ROOT)}
    module = ["api.server", "--config", "python:bench.constant", "bench.constant:app"]
    started, url = time.perf_counter(), f"http://{bind}"
    with running_module(home, "constant", environ, module) as process:
        await_start(process, home / "constant.log", lambda: is_ready(url))
        yield ConstantServer(url, process.pid, time.perf_counter() - started)
