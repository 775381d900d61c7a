"""
A local chain: anvil, or eth-tester with py-evm where there is no anvil.

::

    python -m dev.chain --port 8545 --block-time 1 --ready-file chain.url
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from dev.anvil import ROOT, obtain_anvil
from dev.ports import free_port
from dev.rpc import RPC
from dev.with_parent import die_with_parent


CHAIN_ID = 31337

_START_SECONDS = 30.0
_STOP_SECONDS = 5.0


class LocalNode(ABC):
    """
    A node on loopback that runs inside the ``with`` block.

    The node runs in its own process group.  On Linux it also ends when the *thread*
    that started it ends, even after kill -9 (see ``dev/with_parent.py``).
    """

    engine: str

    def __init__(self, port: int = 0) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def _compose(self) -> list[str]:
        """Return the command that runs the node."""

    @abstractmethod
    def mine_every(self, seconds: int) -> None:
        """Make a block every so many *seconds*; with 0, none until the next call."""

    @abstractmethod
    def mine(self, blocks: int) -> None:
        """Make *blocks* of what is in the pool."""

    @property
    def pid(self) -> int:
        """The node's process id, which is also that of its group."""
        return self._running().pid

    def start(self) -> Self:
        """
        Start the node and wait until it responds.

        Raises:
            OSError: The port is in use.
            RuntimeError: The node ended, or did not respond in time.
        """
        # Otherwise a node that already listens there would respond instead.
        _require_free(self.port)
        command = self._compose()
        with tempfile.TemporaryFile() as errors:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-I",  # Modules next to the script must not shadow Python's.
                    ROOT / "dev" / "with_parent.py",
                    str(os.getpid()),
                    *command,
                ],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                process_group=0,
            )
            try:
                self._await(errors)
            except BaseException:
                self.stop()
                raise
        return self

    def stop(self) -> None:
        """Stop the node and its child processes.  Stopping twice is harmless."""
        process, self._process = self._process, None
        if process is not None:
            self._end(process)

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        for step in (signal.SIGTERM, signal.SIGKILL):
            # The process id is not reused before the wait below.
            if process.poll() is None:
                os.killpg(process.pid, step)
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                continue
            return

    def is_alive(self) -> bool:
        """Whether the node runs."""
        return self._process is not None and self._process.poll() is None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("the local chain is not running")
        return self._process

    def _await(self, errors: IO[bytes]) -> None:
        rpc = RPC(self.url, timeout=2.0)
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            time.sleep(0.02)
            if self._running().poll() is not None:
                errors.seek(0)
                output = errors.read().decode(errors="replace").strip()
                raise RuntimeError(f"the local chain ended at once: {output[-500:]}")
            try:
                rpc("eth_chainId")
            except (OSError, ValueError):
                continue
            return
        raise RuntimeError("the local chain does not respond")


class LocalChain(LocalNode):
    """
    A new chain: anvil, or eth-tester.

    Every account of ``eth_accounts`` is unlocked and funded.

    Args:
        anvil: The binary (``dev.anvil``); None means eth-tester.
        port: The port on 127.0.0.1; 0 means any free port.
        block_time: Seconds between blocks; None mines each transaction at once and no
            empty blocks.  eth-tester always mines transactions at once; with a
            *block_time* it adds empty blocks.
        chain_id: The chain's id.
        hardfork: Hardfork for anvil: before ``london`` there is no base fee.
        kind: ``arc`` has the precompile of Celo's chains with which a token can be
            the coin (``dev/stablecoin/GasUSD.sol``), and ``tempo`` is Tempo's; anvil
            only.
    """

    def __init__(
        self,
        anvil: Path | None,
        *,
        port: int = 0,
        block_time: int | None = None,
        chain_id: int = CHAIN_ID,
        hardfork: str | None = None,
        kind: str | None = None,
    ) -> None:
        super().__init__(port)
        self.engine = "anvil" if anvil else "eth-tester"
        self._options = _command(anvil, self.port, chain_id, block_time)
        if anvil and hardfork:
            self._options.append(f"--hardfork={hardfork}")
        if anvil and kind:
            self._options += {"arc": ["--celo"], "tempo": ["--network=tempo"]}[kind]
        self._states: tempfile.TemporaryDirectory[str] | None = None

    def _compose(self) -> list[str]:
        if self.engine == "eth-tester":
            sys.stderr.write(
                "anvil is not installed: the local chain is eth-tester, in Python.\n"
            )
            return self._options
        # By default anvil keeps old states in the user's home, also after its end.
        self._states = tempfile.TemporaryDirectory(
            prefix="hotwallet-anvil-", ignore_cleanup_errors=True
        )
        return [*self._options, f"--cache-path={self._states.name}"]

    def mine_every(self, seconds: int) -> None:
        """Make a block every so many *seconds*; eth-tester keeps its first interval."""
        if self.engine == "anvil":
            rpc = RPC(self.url)
            rpc("evm_setAutomine", False)
            rpc("evm_setIntervalMining", seconds)

    def mine(self, blocks: int) -> None:
        """Make *blocks* of what is in the pool; anvil only."""
        RPC(self.url)("anvil_mine", hex(blocks))

    def stop(self) -> None:
        """Stop the chain, and remove its old states."""
        super().stop()
        states, self._states = self._states, None
        if states is not None:
            states.cleanup()


def _command(
    anvil: Path | None, port: int, chain_id: int, block_time: int | None
) -> list[str]:
    interval = [] if block_time is None else ["--block-time", str(block_time)]
    options = ["--port", str(port), "--chain-id", str(chain_id), *interval]
    if anvil is None:
        return [sys.executable, "-m", "dev.tester_chain", *options]
    return [str(anvil), "--host=127.0.0.1", "--quiet", *options]


def _require_free(port: int) -> None:
    """Raise OSError if *port* is in use."""
    with socket.socket() as probe:
        # As servers do: a port with connections in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))


def _write_ready_file(path: Path, url: str) -> None:
    # Atomically: a reader must never see half of the file.
    draft = path.with_name(path.name + ".tmp")
    draft.write_text(url + "\n", encoding="utf-8")
    draft.replace(path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a chain until SIGTERM or SIGINT; return 1 if the node ends by itself."""
    parser = argparse.ArgumentParser(prog="python -m dev.chain", description=__doc__)
    parser.add_argument("--port", type=int, default=8545)
    parser.add_argument("--block-time", type=int, help="seconds; default: on demand")
    parser.add_argument(
        "--ready-file", type=Path, help="gets the URL once the node responds"
    )
    parser.add_argument("--engine", choices=("anvil", "eth-tester"), default="anvil")
    parser.add_argument("--die-with-parent", action="store_true")
    options = parser.parse_args(arguments)
    if options.die_with_parent:
        die_with_parent(os.getppid())
    anvil = obtain_anvil(ROOT) if options.engine == "anvil" else None
    stop = threading.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: stop.set())
    chain = LocalChain(anvil, port=options.port, block_time=options.block_time)
    try:
        with chain:
            print(f"{chain.engine} on {chain.url}, chain id {CHAIN_ID}", flush=True)
            if options.ready_file:
                _write_ready_file(options.ready_file, chain.url)
            while chain.is_alive():
                if stop.wait(0.2):
                    return 0
        problem = "the node ended by itself"
    except (OSError, RuntimeError) as e:
        problem = str(e)
    print(f"The local chain on port {chain.port} failed: {problem}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
