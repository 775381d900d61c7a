"""Explanations of refunds, and wallets, for HTTP and the command line."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from api.views.document import (
    Address,
    Count,
    Document,
    Hash,
    OneOf,
    Overlaid,
    Timestamp,
    Wei,
    says,
    text,
)
from api.views.refunds import RefundDocument, StatusMember
from signer.model.refund import Status
from signer.model.transaction import Kind, TransactionStatus
from signer.model.wallet import Pause


class _Next(Document):
    """What happens next."""

    what: str = says(
        "One sentence: also whether the caller must do something.", "next_step"
    )
    at: Timestamp | None = says("When, if it is known.", "next_at")


class _Policy(Document):
    """Whether today's rules would accept it."""

    allowed: bool = says("Whether they would.")
    objection: str | None = says("Why they would not.", "policy")

    @classmethod
    def derive(cls, source: Any) -> Mapping[str, Any]:
        return {"allowed": source.policy is None}


class _Move(Document):
    """A change of the status."""

    status: StatusMember
    at: Timestamp = says("When it was made.")


class _Transaction(Document):
    """A signed transaction of the refund's nonce."""

    tx_hash: Hash = says("The hash of a transaction.")
    attempt: Count = says("Counts the attempts from 0.")
    kind: Kind = says("`noop` consumes the nonce and pays nothing.")
    gas_limit: Count = says("The gas limit.")
    signed_at: Timestamp = says("When it was signed.")
    max_fee_per_gas: Wei = says("In wei.")
    max_priority_fee_per_gas: Wei = says("In wei.")


class _Earlier(Document):
    """A transaction whose nonce must be used first."""

    refund: Annotated[str, text(pattern="^rf_")] | None = says(
        "The refund that it pays; null if that is another tenant's, or for a filler."
    )
    nonce: Count = says("Its nonce.")
    status: StatusMember


class _Nonce(Document):
    """The refund's nonce."""

    nonce: Count = says("The nonce, for the life of the refund.", "refund.nonce")
    waits_for: list[_Earlier] = says("Up to five open ones with lower nonces.")

    @classmethod
    def derive(cls, source: Any) -> Mapping[str, Any]:
        ahead = [
            Overlaid(
                each,
                {"refund": source.visible_id(each), "status": Status(each.status)},
            )
            for each in source.ahead
        ]
        return {"waits_for": ahead}


class _Foreign(Document):
    """A final transaction of the wallet that this service did not make."""

    nonce: Count = says("Its nonce.")
    tx_hash: Hash = says("The hash of a transaction.")
    block_number: Count = says("Its block.")
    seen_at: Timestamp = says("When the service found it.")


class _Filler(Document):
    """A cancellation that uses a nonce which a restored database lacks."""

    nonce: Count = says("Its nonce.")
    status: TransactionStatus = says("How far it is.")
    blocked_by: str | None = says("The code of the error that delays it.")


class _Wallet(Document):
    """The wallet that pays, in the database and on the chain."""

    address: Address = says("The wallet's address.", "wallet.sender")
    chain_id: int = says("The chain.", "wallet.chain_id")
    next_nonce: Count = says("The next nonce in the database.", "wallet.next_nonce")
    paused_by: Annotated[str, OneOf(lambda: [*Pause, "row-not-authentic"])] | None = (
        says("Why it assigns no new nonces.", "wallet.pause_reason")
    )
    paused_at: Timestamp | None = says("Since when.", "wallet.paused_at")
    chain_next_nonce: Count = says("The next nonce on the chain.", "chain_nonce")
    unseen: Count = says(
        "How many nonces of the chain the database lacks.", "unknown_count"
    )
    foreign: list[_Foreign] = says("Transactions that this service did not make.")


class _Node(Document):
    """What one node reports."""

    node: str = says("Its position in the configuration, such as `node-1`.")
    trusted: bool = says("Whether it counts towards the quorum.")
    error: str | None = says("The code of the error, if it did not answer.")
    head: int | None = says("Its newest block.")
    next_nonce: int | None = says(
        "The wallet's next nonce in its newest block.", "counted"
    )
    pending_nonce: int | None = says("The same, with its pool.", "pending")
    transactions: dict[
        str,
        Annotated[
            Literal["mined", "pending", "unknown"], says("Where the node has it.")
        ],
    ] = says("The refund's transactions, by hash.")


class _Confirmations(Document):
    """How deep its block is."""

    head: int | None = says("The newest block of the chain.")
    required: int | None = says(
        "The confirmations that the network needs.", "confirmations"
    )


class _Fees(Document):
    """The fees of the last transaction, and those of its replacement."""

    max_fee_per_gas: Wei = says("Of the last transaction.", "max_fee")
    max_priority_fee_per_gas: Wei = says("Of the last transaction.", "priority_fee")
    base_fee_per_gas: Wei | None = says(
        "The chain's; null without EIP-1559.", "base_fee"
    )
    replacement_max_fee_per_gas: Wei | None = says(
        "The least that replaces it; null if that exceeds the cap."
    )
    replacement_max_priority_fee_per_gas: Wei | None = says("The same.")
    cap: Wei = says("The network's highest fee.")
    raise_at: Timestamp = says("When the worker raises the fees.")

    @classmethod
    def derive(cls, source: Any) -> Mapping[str, Any]:
        fee, priority_fee = source.required or (None, None)
        return {
            "replacement_max_fee_per_gas": fee,
            "replacement_max_priority_fee_per_gas": priority_fee,
        }


class ExplanationDocument(Document):
    """Why a refund has its status."""

    refund: RefundDocument
    summary: str = says("One sentence: the reason for the status.")
    next: _Next
    blocked_by: str | None = says(
        "The code of the error that delays it.", "refund.moving.blocked_by"
    )
    attempts: Count = says(
        "Failures since the last change of the status.", "refund.moving.attempts"
    )
    policy: _Policy = says(source="rules")
    history: list[_Move] = says("Each status and its time.")
    transactions: list[_Transaction] = says("Everything that was signed for it.")
    nonce: _Nonce | None
    stopped_at: Timestamp | None = says("Since when signing is stopped.")
    tenant_blocked_at: Timestamp | None = says("Since when the tenant is blocked.")
    wallet: _Wallet | None = says(source="wallet_status")
    nodes: list[_Node] = says("What each node reports.")
    confirmations: _Confirmations = says(source="depth")
    fees: _Fees | None = says(
        "The fees of the last transaction, and those of its replacement, in wei per"
        " gas."
    )
    unanswered: dict[str, Annotated[str, says("A code.")]] = says(
        "What could not be asked, with the code of the error."
    )

    @classmethod
    def derive(cls, source: Any) -> Mapping[str, Any]:
        """Return the parts that show several facts of the explanation."""
        nonce = None if source.refund.nonce is None else source
        return {"next": source, "rules": source, "nonce": nonce, "depth": source}


class _Repair(_Wallet):
    """A wallet."""

    network: str = says("The network's name.")
    resumed: bool = says("Whether the repair resumed it.")
    problem: str | None = says("Why it is still paused, in words.")
    fillers: list[_Filler] = says("Fillers that are not final yet.")
    stopped_at: Timestamp | None = says("When signing was stopped, which stays so.")

    @classmethod
    def derive(cls, source: Any) -> Mapping[str, Any]:
        status = source.wallet_status
        names = ("wallet", "chain_nonce", "unknown_count", "foreign")
        return {name: getattr(status, name) for name in names}


class RepairedWalletsDocument(Document):
    """The wallets of each network, after the repair."""

    wallets: list[_Repair] = says("All wallets that paid something.")
