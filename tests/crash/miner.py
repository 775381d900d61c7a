"""Mines blocks on the laboratory's chain several times a second."""

import random
from collections import defaultdict
from collections.abc import Collection, Sequence
from threading import Event, Lock, Thread
from typing import Any, Self

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
        self._lock = Lock()
        self.base_fee = 1

    def __enter__(self) -> Self:
        self._rpc("evm_setAutomine", False)
        self._rpc("evm_setIntervalMining", 0)
        self.resume()
        return self

    def __exit__(self, *_: object) -> None:
        self.pause()

    def resume(self) -> None:
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

    def reorganise(
        self,
        depth: int,
        first: Sequence[dict[str, Any]],
        wallets: Collection[str],
        dice: random.Random,
    ) -> None:
        """
        Replace the last *depth* blocks, and what they have done.

        The new ones have the transactions *first*, and then some of *wallets* that the
        old ones had.  The others have left the chain and the pool.
        """
        with self._lock:
            # What the senders of *first* have in the pool would stay there with nonces
            # that *first* uses, and anvil would refuse the senders' next transactions.
            self._rpc("evm_mine")
            head = int(self._rpc("eth_blockNumber"), 16)
            sent: dict[str, list[str]] = defaultdict(list)
            for number in range(head - depth + 1, head + 1):
                block = self._rpc("eth_getBlockByNumber", hex(number), True)
                for each in block["transactions"]:
                    raw = self._rpc("eth_getRawTransactionByHash", each["hash"])
                    sent[each["from"].lower()].append(raw)
            kept = [
                raw
                for wallet in sorted({each.lower() for each in wallets})
                for raw in sent[wallet][: dice.randint(0, len(sent[wallet]))]
            ]
            self._rpc("anvil_reorg", depth, [[each, 0] for each in (*first, *kept)])

    def _run(self) -> None:
        while not self._stop.wait(_SECONDS):
            fee = hex(self.base_fee * _GWEI)
            with self._lock:
                self._rpc("anvil_setNextBlockBaseFeePerGas", fee)
                self._rpc("evm_mine")
