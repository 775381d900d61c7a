"""
Who makes a vault skip payments: its guardian, the token's issuer, and the chain.

They change what the vault pays while transactions wait, and reorganisations change
which payments of one transaction fail.
"""

import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from dev import stablecoin
from signer.chain.vault import decode_pay
from signer.errors import EncodingError
from tests.crash.dependencies import CAPS
from tests.crash.miner import Miner
from tests.support.vault import LocalVault


Wait = Callable[[Callable[[], bool], float], bool]
"""``Laboratory.wait``."""

_LOWER = ((4_000_000, CAPS[1]), (CAPS[0], 1), (1, CAPS[1]))
"""Caps that some payments, or all, are above."""

_GAS = hex(200_000)
_FEE = hex(10**11)  # These transactions come first in their block.


class VaultRules:
    """Changes the rules of *vault*, which *wallets* pay from."""

    def __init__(self, vault: LocalVault, wallets: Sequence[str], seed: int) -> None:
        self.vault = vault
        self.blocked = set[str]()
        """The recipients that the token refused at any time, in lower case."""
        self.reorganisations = 0
        self._wallets = wallets
        self._random = random.Random(seed)
        self._issuer = stablecoin.issuer(vault.url)

    def block(self, *recipients: str) -> None:
        """Let the token refuse *recipients* from the next block on."""
        for each in recipients:
            self.vault.rpc("eth_sendTransaction", self._blocking(each))

    def overtake(self, miner: Miner, wait: Wait, *, lower: bool = False) -> None:
        """
        Block a recipient of a batch that waits for a block, or set other caps.

        With *lower*, set caps that most payments are above.
        """
        miner.pause()
        wait(lambda: bool(self._find_waiting()), 30.0 if lower else 3.0)
        waiting = self._find_waiting()
        if waiting and not lower and self._random.random() < 0.5:
            self.block(self._random.choice(waiting))
        else:
            choice = _LOWER[:1] if lower else (CAPS, CAPS, *_LOWER)
            self._set_caps(self._random.choice(choice))
        miner.resume()

    def reorganise(self, miner: Miner, most: int) -> None:
        """Replace up to *most* blocks, and block a recipient that they have paid."""
        depth = self._random.randint(1, most)
        head = int(self.vault.rpc("eth_blockNumber"), 16)
        mined = [
            each
            for number in range(head - depth + 1, head + 1)
            for each in self.vault.rpc("eth_getBlockByNumber", hex(number), True)[
                "transactions"
            ]
        ]
        paid = _recipients(mined)
        chosen = self._random.sample(paid, min(len(paid), self._random.randint(0, 2)))
        first = [self._blocking(each) for each in chosen]
        miner.reorganise(depth, first, self._wallets, self._random)
        self.reorganisations += 1

    def permit_all(self) -> bool:
        """Raise the caps again, and return whether they are raised in a block."""
        # An earlier change that still waits for a block would lower them again.
        mined, sent = (
            self.vault.rpc("eth_getTransactionCount", self.vault.guardian, block)
            for block in ("latest", "pending")
        )
        if mined != sent:
            return False
        token = self.vault.token
        if self.vault.read(["uint96", "uint96"], "caps(address)", token) == CAPS:
            return True
        self._set_caps(CAPS)
        return False

    def _set_caps(self, caps: tuple[int, int]) -> None:
        """Send what sets *caps*; it is in a later block."""
        signature = "setCaps(address,uint96,uint96)"
        change = stablecoin.calldata(signature, self.vault.token, *caps)
        for data in (stablecoin.calldata("propose(bytes)", change), change):
            sent = _transaction(self.vault.guardian, self.vault.address, data)
            self.vault.rpc("eth_sendTransaction", sent)

    def _blocking(self, recipient: str) -> dict[str, Any]:
        self.blocked.add(recipient.lower())
        data = stablecoin.calldata("setBlocked(address,bool)", recipient, True)
        return _transaction(self._issuer, self.vault.token, data)

    def _find_waiting(self) -> list[str]:
        """Return the recipients of the batches in the pool."""
        pending = self.vault.rpc("txpool_content")["pending"]
        return _recipients(
            [each for by_nonce in pending.values() for each in by_nonce.values()]
        )


def _recipients(transactions: Sequence[dict[str, Any]]) -> list[str]:
    found: list[str] = []
    for each in transactions:
        with suppress(EncodingError):  # It is no batch.
            _, items = decode_pay(bytes.fromhex(each["input"][2:]))
            found += [item.recipient for item in items]
    return found


def _transaction(sender: str, to: str, data: bytes) -> dict[str, Any]:
    return {
        "from": sender,
        "to": to,
        "data": f"0x{data.hex()}",
        "gas": _GAS,
        "maxFeePerGas": _FEE,
        "maxPriorityFeePerGas": _FEE,
    }
