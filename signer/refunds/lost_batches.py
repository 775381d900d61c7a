"""Reads how a vault ended the items of a batch that a restored ledger has lost."""

from collections.abc import Sequence

from signer.chain.chain import Chain
from signer.chain.vault import End, decode_pay, has_vault_code, read_ends
from signer.errors import ChainUnavailableError, EncodingError
from signer.model.payment import PaymentState
from signer.model.transaction import EPOCH
from signer.model.wallet import NOOP_MEMO, PAID
from signer.ports.chain import MinedTransaction
from signer.refunds.batch_ends import end_payment


LostItem = tuple[bytes | None, str | None]
"""Memo and end of an item, as ``UnrecordedTransaction`` has them."""

_NOT_PAID: LostItem = (NOOP_MEMO, None)


def read_lost_items(mined: MinedTransaction, chain: Chain) -> Sequence[LostItem]:
    """
    Return the items of a final transaction, in their order; none if it is no batch.

    Raises:
        ChainUnavailableError: The nodes have no receipt of it in its block.
    """
    try:
        token, items = decode_pay(mined.data)
    except EncodingError:
        return ()
    if not _is_vault(mined.to or "", chain) or not _is_configured(token, chain):
        return ()  # Another contract can emit any event, and a token as well.
    receipt = chain.client.receipts([mined.tx_hash]).get(mined.tx_hash)
    if receipt is None or receipt.block != mined.block:
        raise ChainUnavailableError(f"the nodes have no receipt of {mined.tx_hash}")
    if not receipt.succeeded:
        return (_NOT_PAID,)
    vault = mined.to or ""
    try:
        ends = read_ends(receipt.logs, vault=vault, token=token, items=items)
    except EncodingError:
        # People must decide: it may have been paid, and may not.
        ends = tuple(End(None, has_transfer=False) for _ in items)
    return [_as_lost(item.mark, end) for item, end in zip(items, ends, strict=True)]


def _is_vault(address: str, chain: Chain) -> bool:
    """Return whether *address* is the network's vault, or was one of another time."""
    return address == chain.network.vault or has_vault_code(chain.client.code(address))


def _is_configured(token: str, chain: Chain) -> bool:
    known = (each.address.lower() for each in chain.network.tokens.values())
    return token in known


def _as_lost(mark: bytes, end: End) -> LostItem:
    ended = end_payment(end, EPOCH)
    if ended.state is PaymentState.CONFIRMED:
        return mark, PAID
    if ended.state is PaymentState.QUEUED:
        return _NOT_PAID
    return mark, ended.failure["failure_code"]
