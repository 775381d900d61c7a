"""A ``ChainClient`` over the simulated chain, with nodes that lag."""

from collections.abc import Callable, Mapping, Sequence

from eth_abi.abi import encode

from signer.errors import ExecutionRevertedError
from signer.ports.chain import (
    NOWHERE,
    Block,
    Call,
    Fees,
    FinalityTag,
    MinedTransaction,
    NodeStatus,
    Receipt,
)
from tests.fixtures.unbatched import Unbatched
from tests.simulation.chain import GWEI, Head, SimulatedChain
from tests.simulation.transaction import CHAIN_ID, TOKEN, VAULT, checksummed, decode


class Node(Unbatched):
    """
    See the module.

    *lag* draws how many heads the responding node lags, for counts, receipts and the
    head.  Blocks by number and pending counts are the result of a quorum.
    """

    def __init__(self, chain: SimulatedChain, lag: Callable[[], int]) -> None:
        self._chain = chain
        self._lag = lag

    def chain_id(self) -> int:
        return CHAIN_ID

    def code(self, address: str) -> bytes:
        return b"code" if address in {TOKEN, VAULT} else b""

    def balance(self, address: str) -> int:
        return self._chain.balance_of("coin", address, self._head().tip)

    def call(self, call: Call) -> bytes:
        vault, tip = self._chain.vault, self._head().tip
        if vault is not None and call.to == VAULT:
            return vault.answer(call.data, self._chain.spent(tip))
        owner = checksummed(call.data[16:36])
        balance_of = self._chain.balance_of("token", owner, tip)
        return encode(("uint256",), (balance_of,))

    def estimate_gas(self, call: Call) -> int:
        if call.to == VAULT and self._chain.vault is not None:
            return self._chain.vault.estimate(call.sender, call.data)
        recipient = checksummed(call.data[16:36])
        if recipient in self._chain.blocklist:
            raise ExecutionRevertedError("blocklisted")
        amount = int.from_bytes(call.data[36:68], "big")
        if self._chain.balance_of("token", str(call.sender)) < amount:
            raise ExecutionRevertedError("too little")
        return 50_000

    def transaction_count(self, address: str, block: int | None = None) -> int:
        head = self._head()
        at = head.tip if block is None else head.blocks[block]
        return at.count(address)

    def pending_count(self, address: str) -> int:
        return self._chain.pending(address)

    def fees(self) -> Fees:
        return Fees(self._head().tip.base_fee, GWEI)

    def broadcast(self, raw: bytes) -> None:
        self._chain.broadcast(decode(raw))

    def receipt(self, tx_hash: str) -> Receipt | None:
        return self._head().receipt(tx_hash)

    def receipts(
        self, tx_hashes: Sequence[str], blocks: Mapping[str, int] = NOWHERE
    ) -> Mapping[str, Receipt]:
        head = self._head()
        found = ((tx_hash, head.receipt(tx_hash)) for tx_hash in tx_hashes)
        return {tx_hash: receipt for tx_hash, receipt in found if receipt}

    def find_transaction(
        self, sender: str, nonce: int, tx_hash: str | None = None
    ) -> MinedTransaction | None:
        if self._lag():
            return None  # A node that lags does not find it.
        for block in self._chain.head.blocks:
            for mined in block.mined:
                transaction = mined.transaction
                if transaction.slot == (sender, nonce):
                    return MinedTransaction(
                        tx_hash=transaction.hash,
                        sender=transaction.sender,
                        nonce=transaction.nonce,
                        to=transaction.to,
                        value=transaction.value,
                        data=transaction.data,
                        gas_limit=transaction.gas_limit,
                        block=block.block,
                    )
        return None

    def latest_block(self) -> Block:
        return self._head().tip.block

    def final_block(self, tag: FinalityTag) -> Block:
        return self._chain.head.blocks[0].block

    def block(self, number: int) -> Block | None:
        blocks = self._chain.head.blocks
        return blocks[number].block if number < len(blocks) else None

    def node_statuses(
        self, sender: str, tx_hashes: Sequence[str]
    ) -> Sequence[NodeStatus]:
        return ()

    def _head(self) -> Head:
        heads = self._chain.heads
        return heads[-1 - min(self._lag(), len(heads) - 1)]
