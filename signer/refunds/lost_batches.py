"""Reads how a vault ended the items of a batch that a restored ledger has lost."""

from collections.abc import Sequence

from signer.chain.chain import Chain
from signer.chain.vault import End, Reason, decode_pay, read_ends
from signer.errors import ChainUnavailableError, EncodingError
from signer.model.wallet import NOOP_MEMO, PAID
from signer.ports.chain import MinedTransaction


LostItem = tuple[bytes | None, str | None]
"""Memo and end of an item, as ``UnrecordedTransaction`` has them."""

_MISMATCH = "transfer-mismatch"

# Why the refund of a skipped item fails.  What the cap of a day skips is paid later.
_FAILURES = {
    Reason.NOT_WITHIN_ITEM_CAP: "above-item-cap",
    Reason.NO_CODE: "reverted",
    Reason.REVERTED: "reverted",
    Reason.NOT_TRUE: _MISMATCH,
}

_NOT_PAID: LostItem = (NOOP_MEMO, None)


def read_lost_items(mined: MinedTransaction, chain: Chain) -> Sequence[LostItem]:
    """
    Return the items of a final transaction, in their order; none if it is no batch.

    An item counts as paid only if vault and token say so, and may be paid again only
    if both say that it was not.  Anything else ends its refund as ``transfer-mismatch``
    for people to decide.

    Raises:
        ChainUnavailableError: The nodes have no receipt of it in its block.
    """
    try:
        token, items = decode_pay(mined.data)
    except EncodingError:
        return ()
    receipt = chain.client.receipts([mined.tx_hash]).get(mined.tx_hash)
    if receipt is None or receipt.block != mined.block:
        raise ChainUnavailableError(f"the nodes have no receipt of {mined.tx_hash}")
    if not receipt.succeeded:
        return (_NOT_PAID,)
    vault = mined.to or ""
    try:
        ends = read_ends(receipt.logs, vault=vault, token=token, items=items)
    except EncodingError:
        return [(item.mark, _MISMATCH) for item in items]
    return [_as_lost(item.mark, end) for item, end in zip(items, ends, strict=True)]


def _as_lost(mark: bytes, end: End) -> LostItem:
    if end.has_transfer != (end.reason is None):
        return mark, _MISMATCH
    if end.reason is None:
        return mark, PAID
    failure = _FAILURES.get(end.reason)
    return _NOT_PAID if failure is None else (mark, failure)
