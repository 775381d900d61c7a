"""Reads the chain by raw JSON-RPC."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import rlp
from eth_utils.crypto import keccak

from dev.rpc import RPC
from tests.crash.evidence import COIN, Sent, Transfer


_EIP_1559, _TEMPO = 2, 0x76
_FEE_MANAGER = "0xfeec000000000000000000000000000000000000"
_TRANSFER = "0x" + keccak(text="Transfer(address,address,uint256)").hex()
_PAID = "0x" + keccak(text="Paid(bytes16)").hex()
_BALANCE_OF = keccak(text="balanceOf(address)")[:4].hex()


@dataclass(frozen=True, slots=True)
class Envelope:
    """The fields of signed bytes; hashes in hex, *digest* without 0x."""

    tx_hash: str
    digest: str
    chain_id: int
    nonce: int

    @classmethod
    def opened(cls, raw: bytes) -> "Envelope":
        """Read a signed transaction, EIP-1559 or legacy with EIP-155."""
        if raw[0] == _TEMPO:
            fields = rlp.decode(raw[1:])
            chain_id, nonce = (int.from_bytes(fields[place]) for place in (0, 7))
            unsigned = raw[:1] + rlp.encode(fields[:-1])
        elif raw[0] == _EIP_1559:
            fields = rlp.decode(raw[1:])
            chain_id, nonce = map(int.from_bytes, fields[:2])
            unsigned = raw[:1] + rlp.encode(fields[:-3])
        else:
            fields = rlp.decode(raw)
            chain_id = (int.from_bytes(fields[6]) - 35) // 2
            nonce = int.from_bytes(fields[0])
            unsigned = rlp.encode([*fields[:6], chain_id, 0, 0])
        tx_hash, digest = f"0x{keccak(raw).hex()}", keccak(unsigned).hex()
        return cls(tx_hash, digest, chain_id, nonce)


def read_transfers(rpc: RPC, wallet: str) -> tuple[Transfer, ...]:
    """Return every ERC-20 transfer out of *wallet*, of any token, but of fees."""
    return tuple(each for each in _read_transfers(rpc, wallet) if not _is_fee(each))


def read_token_fees(rpc: RPC, *wallets: str) -> int:
    """Return what *wallets* have paid as fees in a token."""
    moved = (each for wallet in wallets for each in _read_transfers(rpc, wallet))
    return sum(each.amount for each in moved if _is_fee(each))


def _is_fee(transfer: Transfer) -> bool:
    return transfer.recipient == _FEE_MANAGER


def _read_transfers(rpc: RPC, wallet: str) -> tuple[Transfer, ...]:
    query = {
        "fromBlock": "0x0",
        "toBlock": "latest",
        "topics": [_TRANSFER, "0x" + _word(wallet)],
    }
    return tuple(
        Transfer(
            tx_hash=log["transactionHash"],
            token=log["address"].lower(),
            recipient="0x" + log["topics"][2][-40:],
            amount=int(log["data"], 16),
            block_number=int(log["blockNumber"], 16),
            block_hash=log["blockHash"],
        )
        for log in rpc("eth_getLogs", query)
    )


def read_marks(rpc: RPC, vault: str) -> tuple[str, ...]:
    """Return the marks of all items that *vault* has paid."""
    query = {"fromBlock": "0x0", "toBlock": "latest", "address": vault}
    found = rpc("eth_getLogs", {**query, "topics": [_PAID]})
    return tuple(log["topics"][1] for log in found)


def read_calls(
    rpc: RPC, contracts: Collection[str], *wallets: str
) -> tuple[Transfer, ...]:
    """Return the transactions of *wallets* that did not revert, but of *contracts*."""
    others = {each.lower() for each in contracts}
    return tuple(
        Transfer(
            tx_hash=mined["hash"],
            token=COIN,
            recipient=mined["to"].lower(),
            amount=int(mined["value"], 16),
            block_number=int(mined["blockNumber"], 16),
            block_hash=mined["blockHash"],
            calldata=mined["input"],
        )
        for mined, receipt in _read_mined(rpc, *wallets)
        if mined["to"].lower() not in others and int(receipt["status"], 16)
    )


def read_coin(rpc: RPC, *wallets: str) -> int:
    """Return how many wei *wallets* have, and have paid as fees."""
    fees = sum(
        int(receipt["gasUsed"], 16) * int(receipt["effectiveGasPrice"], 16)
        for _, receipt in _read_mined(rpc, *wallets)
    )
    balances = (rpc("eth_getBalance", each, "latest") for each in wallets)
    return fees + sum(int(balance, 16) for balance in balances)


def read_sent(rpc: RPC, *wallets: str) -> tuple[Sent, ...]:
    """Return all transactions of *wallets*, in blocks first and then in the pool."""
    senders = {wallet.lower() for wallet in wallets}
    found = list(_read_blocks(rpc))
    pool = rpc("txpool_content")
    for by_nonce in (*pool["pending"].values(), *pool["queued"].values()):
        found += map(_with_call, by_nonce.values())
    ours = (each for each in found if each["from"].lower() in senders)
    # The pool forgets a transaction that is replaced while it is read.
    sent = (_sent(transaction, rpc) for transaction in ours)
    return tuple(each for each in sent if each is not None)


def read_balance(rpc: RPC, token: str, wallet: str) -> int:
    """Return how many base units of *token* the wallet has."""
    data = f"0x{_BALANCE_OF}{_word(wallet)}"
    return int(rpc("eth_call", {"to": token, "data": data}, "latest"), 16)


def _read_blocks(rpc: RPC) -> Iterator[dict[str, Any]]:
    """Yield the transactions in all blocks, the oldest first."""
    for number in range(int(rpc("eth_blockNumber"), 16) + 1):
        block = rpc("eth_getBlockByNumber", hex(number), True)
        yield from map(_with_call, block["transactions"])


def _with_call(transaction: dict[str, Any]) -> dict[str, Any]:
    """Return *transaction* with the fields of its call, which type 0x76 has."""
    (call,) = transaction.get("calls", [{}])
    return {**transaction, **call}


def _read_mined(
    rpc: RPC, *wallets: str
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield each transaction of *wallets* that is in a block, and its receipt."""
    senders = {wallet.lower() for wallet in wallets}
    for mined in _read_blocks(rpc):
        if mined["from"].lower() in senders:
            yield mined, rpc("eth_getTransactionReceipt", mined["hash"])


def _word(address: str) -> str:
    return address[2:].lower().rjust(64, "0")


def _tempo_digest(transaction: dict[str, Any]) -> str:
    """Return the digest of type 0x76: anvil does not show its bytes."""

    def number(name: str) -> int:
        return int(transaction[name], 16)

    to, data = (bytes.fromhex(transaction[name][2:]) for name in ("to", "input"))
    fee_token = bytes.fromhex(transaction["feeToken"][2:])
    fees = number("maxPriorityFeePerGas"), number("maxFeePerGas")
    call = [to, number("value"), data]
    fields = [number("chainId"), *fees, number("gas"), [call], [], number("nonceKey")]
    unsigned = rlp.encode([*fields, number("nonce"), b"", b"", fee_token, b"", []])
    return keccak(bytes((_TEMPO,)) + unsigned).hex()


def _sent(transaction: dict[str, Any], rpc: RPC) -> Sent | None:
    if int(transaction["type"], 16) == _TEMPO:
        nonce, digest = int(transaction["nonce"], 16), _tempo_digest(transaction)
        return Sent(transaction["hash"], nonce, digest)
    raw = rpc("eth_getRawTransactionByHash", transaction["hash"])
    if raw is None:
        return None
    return Sent(
        tx_hash=transaction["hash"],
        nonce=int(transaction["nonce"], 16),
        digest=Envelope.opened(bytes.fromhex(raw[2:])).digest,
    )
