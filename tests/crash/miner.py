"""Mines blocks on the laboratory's chain several times a second."""

from threading import Event, Thread
from typing import Self

from dev.rpc import RPC


_GWEI = 10**9
_SECONDS = 0.2


class Miner:
    """
    Mines every 0.2 seconds, unless it is paused; anvil itself mines no faster than 1 s.

    ``base_fee`` is that of the next blocks in gwei.  While the miner is paused, all
    transactions stay in the pool.
    """

    def __init__(self, rpc: RPC) -> None:
        self._rpc = rpc
        self._stop = Event()
        self._thread: Thread | None = None
        self.base_fee = 1

    def __enter__(self) -> Self:
        self._rpc("evm_setAutomine", False)
        self._rpc("evm_setIntervalMining", 0)
        self.resume()
        return self

    def __exit__(self, *_: object) -> None:
        self.pause()

    def resume(self) -> None:
        """Mine from now on."""
        if self._thread is None:
            self._stop.clear()
            self._thread = Thread(target=self._run, daemon=True)
            self._thread.start()

    def pause(self) -> None:
        """Mine nothing from now on."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._stop.set()
            thread.join()

    def _run(self) -> None:
        while not self._stop.wait(_SECONDS):
            fee = hex(self.base_fee * _GWEI)
            self._rpc("anvil_setNextBlockBaseFeePerGas", fee)
            self._rpc("evm_mine")
