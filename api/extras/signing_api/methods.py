"""
The methods of JSON-RPC, on one network, for one caller.

Reads are forwarded to the nodes: here is a list of what is allowed, and its bounds.
What a node answers is passed on, and decides nothing about a payment.
"""

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, NoReturn

from api.extras.signing_api.calls import (
    CHAIN_DISCONNECTED,
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    TRANSACTION_REJECTED,
    RPCError,
)
from signer.config.networks import Network
from signer.crypto.messages import PersonalMessage
from signer.crypto.transaction_json import read_address, read_quantity
from signer.crypto.typed_data import TypedData
from signer.errors import (
    ForeignAddressError,
    InvalidInputError,
    MethodNotServedError,
    PolicyViolationError,
    ResultTooLargeError,
)
from signer.model.refund import IN_FLIGHT, Refund, Status
from signer.policy.rules import RULES
from signer.ports.outside_services import NodeProxy
from signer.refunds.eth_send_transaction import WINDOW_SECONDS, TransactionSender
from signer.refunds.service import RefundService
from signer.refunds.token_transfer import read_chain_id, read_payment, read_sender
from signer.signing.service import Requester, SigningService


READS: Mapping[str, int] = {
    "eth_blockNumber": 0,
    "eth_call": 4,
    "eth_createAccessList": 2,
    "eth_estimateGas": 3,
    "eth_feeHistory": 3,
    "eth_gasPrice": 0,
    "eth_getBalance": 2,
    "eth_getBlockByHash": 2,
    "eth_getBlockByNumber": 2,
    "eth_getBlockReceipts": 1,
    "eth_getCode": 2,
    "eth_getLogs": 1,
    "eth_getStorageAt": 3,
    "eth_getTransactionByHash": 1,
    "eth_getTransactionCount": 2,
    "eth_getTransactionReceipt": 1,
    "eth_maxPriorityFeePerGas": 0,
    "eth_syncing": 0,
    "hardhat_metadata": 0,
}
"""The methods, with the most parameters that each may have."""

LOCAL_CHAIN = 31337
"""Hardhat asks a node of this chain whether it is a simulated one."""

MAX_BLOCKS = 1_000
"""The most blocks of one ``eth_getLogs``."""

MAX_RESULT = 4 * 1024 * 1024
"""The results of one HTTP request together, in characters of JSON."""

_FIRST = "earliest"
_LAST = frozenset({"latest", "pending", "safe", "finalized"})


@dataclass
class ResponseBudget:
    """What is left for the results of one HTTP request, in characters of JSON."""

    left: int = MAX_RESULT

    def spend(self, ask: Callable[[], Any]) -> str:
        """
        Return the result of *ask* as JSON, and count its characters.

        Raises:
            ResultTooLargeError: There is too little.  No further result fits then:
                reading each to its end would cost as much as answering it.
        """
        if self.left <= 0:
            raise ResultTooLargeError
        try:
            result = json.dumps(ask())
        except ResultTooLargeError:
            self.left = 0
            raise
        self.left -= len(result)
        if self.left < 0:
            raise ResultTooLargeError
        return result


BROADCAST_SECONDS = 5.0
"""How long the calls of one request wait together for a worker to broadcast."""

_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")
_SENT = IN_FLIGHT | {Status.CONFIRMED}


@dataclass(frozen=True, slots=True)
class RequestContext:
    """
    What belongs to one HTTP request.

    *idempotency_key* is that of its only call.  *may_wait* counts the request while it
    waits for a worker, and *asking_nodes* while it waits for nodes.  *budget* is for
    the results of reads.  *wait_until*, and *ends_at* from which no call is begun, are
    times of ``time.monotonic``.  The first call *is_counted* already.
    """

    requester: Requester
    tenant: str
    may_wait: Callable[[], AbstractContextManager[bool]]
    asking_nodes: Callable[[], AbstractContextManager[None]]
    wait_until: float
    ends_at: float
    idempotency_key: str | None = None
    budget: ResponseBudget = field(default_factory=ResponseBudget)
    is_counted: bool = True


@dataclass(frozen=True, slots=True)
class Methods:
    """The methods of the network *name*, whose nodes *proxy* asks."""

    name: str
    network: Network
    signing: SigningService
    sender: TransactionSender
    refunds: RefundService
    proxy: NodeProxy

    def call(self, method: str, params: Sequence[Any], context: RequestContext) -> str:
        """
        Return the result of *method* as JSON.

        Raises:
            RPCError: There is no such method, or it is an answer with a code of its
                own.
            HotWalletError: As what the method calls; ``errors.error_of`` maps it.
        """
        if method in READS and (
            method != "hardhat_metadata" or self.network.chain_id == LOCAL_CHAIN
        ):
            with context.asking_nodes():
                return self._read(method, params, context.budget)
        constant = _CONSTANTS.get(method)
        if constant is not None:
            if params:
                raise RPCError(INVALID_PARAMS, f"{method} has no parameters")
            return json.dumps(constant(self))
        handler = _HANDLERS.get(method)
        if handler is None:
            raise _not_found(method)
        return json.dumps(handler(self, params, context))

    def accounts(self) -> list[str]:
        return [self.signing.address()]

    def send_transaction(self, params: Sequence[Any], context: RequestContext) -> str:
        """Send a transfer or a call; return the hash once a worker has broadcast it."""
        fields = _read_object(params)
        self._require_own(read_sender(fields))
        self._require_chain(read_chain_id(fields), "chainId")
        payment = read_payment(fields, self.network)
        with context.asking_nodes() if payment.has_terms else nullcontext():
            refund = self.sender.accept(
                payment,
                self.name,
                context.tenant,
                context.requester.actor,
                context.idempotency_key,
            )
        with context.may_wait() as may_wait:
            left = context.wait_until - time.monotonic()
            if may_wait and left > 0:
                refund = self.refunds.await_broadcast(refund, left)
        return _require_sent(refund)

    def sign_transaction(self, *_: object) -> NoReturn:
        """Refuse: the transaction would use a nonce that the ledger does not know."""
        rule = "service-wallet"
        problem = f"no transaction is signed: {RULES[rule]} (rule {rule})"
        raise PolicyViolationError(problem, rule=rule)

    def sign_message(self, params: Sequence[Any], context: RequestContext) -> str:
        """Return the signature of a message: ``[message, address]``."""
        if len(params) == 3:  # noqa: PLR2004  web3.js sends a password, too.
            if params[2] not in (None, ""):
                problem = "the wallet has no password: leave the third parameter empty"
                raise RPCError(INVALID_PARAMS, problem, field="params")
            params = params[:2]
        message, address = _read_two(params, "the message and the address")
        self._require_order(message, address)
        signed = self.signing.sign_personal_message(
            PersonalMessage.parse(message),
            context.requester,
            read_address(address, "address"),
        )
        return f"0x{signed.to_bytes().hex()}"

    def sign_typed_data(self, params: Sequence[Any], context: RequestContext) -> str:
        """Return the signature of a document: ``[address, document]``."""
        address, document = _read_two(params, "the address and the document")
        sender = read_address(address, "address")
        parsed = TypedData.parse(document)
        self._require_chain(parsed.chain_id, "the domain's chainId")
        signed = self.signing.sign_typed_data(parsed, context.requester, sender)
        return f"0x{signed.to_bytes().hex()}"

    def _read(self, method: str, params: Sequence[Any], budget: ResponseBudget) -> str:
        if len(params) > READS[method]:
            problem = f"{method} has at most {READS[method]} parameters"
            raise RPCError(INVALID_PARAMS, problem)
        if method == "eth_getTransactionCount":
            of_address, at_block = [*params, None, None][:2]
            own = self.signing.address()
            if at_block == "pending" and read_address(of_address, "address") == own:
                # The ledger knows it.
                chain_id = self.network.chain_id
                nonce = self.sender.next_nonce(self.name, chain_id, own)
                return json.dumps(hex(nonce))
        if method == "eth_getLogs":
            self._require_few_blocks(params)
        try:
            return budget.spend(lambda: self.proxy.forward(method, params))
        except MethodNotServedError:
            raise _not_found(method) from None

    def _require_few_blocks(self, params: Sequence[Any]) -> None:
        if len(params) != 1 or not isinstance(params[0], dict):
            raise InvalidInputError("must be one object", field="params")
        query = params[0]
        if query.get("blockHash") is not None:
            return
        first, last = query.get("fromBlock"), query.get("toBlock")
        head: int | None = None
        bounds = []
        for each, name in ((first, "fromBlock"), (last, "toBlock")):
            if each is None or (isinstance(each, str) and each in _LAST):
                if head is None:
                    found = self.proxy.forward("eth_blockNumber", [])
                    head = read_quantity(found, "eth_blockNumber")
                bounds.append(head)
            else:
                bounds.append(0 if each == _FIRST else read_quantity(each, name))
        if bounds[1] - bounds[0] >= MAX_BLOCKS:
            raise InvalidInputError(
                f"eth_getLogs reads at most {MAX_BLOCKS} blocks: ask for fewer",
                field="fromBlock",
            )

    def _require_own(self, sender: str) -> None:
        own = self.signing.address()
        if sender != own:
            raise ForeignAddressError(
                f"must be the address that signs here, {own}", field="from"
            )

    def _require_chain(self, chain_id: int | None, name: str) -> None:
        if chain_id not in (None, self.network.chain_id):
            raise RPCError(
                CHAIN_DISCONNECTED,
                f"{name} is {chain_id}, and this endpoint is of chain"
                f" {self.network.chain_id} ({self.name})",
                code="chain-id",
            )

    def _require_order(self, message: object, address: object) -> None:
        """Refuse ``[address, message]``, the order of ``eth_sign``."""
        is_address = isinstance(address, str) and _ADDRESS.fullmatch(address)
        own = self.signing.address().lower()
        first_is_own = isinstance(message, str) and message.lower() == own
        is_own = isinstance(address, str) and address.lower() == own
        if not is_address or (first_is_own and not is_own):
            raise RPCError(
                INVALID_PARAMS,
                "personal_sign takes [message, address], in this order",
                field="params",
            )


_CONSTANTS: Mapping[str, Callable[[Methods], Any]] = {
    "eth_accounts": Methods.accounts,
    "eth_chainId": lambda methods: hex(methods.network.chain_id),
    "eth_requestAccounts": Methods.accounts,
    "net_listening": lambda _: True,
    "net_version": lambda methods: str(methods.network.chain_id),
    "web3_clientVersion": lambda _: f"hotwallet/{version('hotwallet')}",
}

_HANDLERS: Mapping[str, Callable[[Methods, Sequence[Any], RequestContext], Any]] = {
    "eth_sendTransaction": Methods.send_transaction,
    "eth_signTransaction": Methods.sign_transaction,
    "eth_signTypedData": Methods.sign_typed_data,
    "eth_signTypedData_v4": Methods.sign_typed_data,
    "personal_sign": Methods.sign_message,
}

METHODS = frozenset({*_CONSTANTS, *_HANDLERS, *READS})
"""Every method that exists."""


def _require_sent(refund: Refund) -> str:
    """Return the hash of *refund*, or raise why there is none."""
    if refund.tx_hash is not None and refund.status in _SENT:
        return refund.tx_hash
    data = {"refund_id": refund.id, "status": str(refund.status)}
    if refund.status.is_final:
        code = refund.failure_code or str(refund.status)
        raise RPCError(
            TRANSACTION_REJECTED,
            f"refund {refund.id} is {refund.status} ({code}): it is not paid",
            code=code,
            **data,
        )
    why = refund.moving.blocked_by or str(refund.status)
    raise RPCError(
        TRANSACTION_REJECTED,
        f"refund {refund.id} is accepted and not sent yet ({why}). It is sent when that"
        " is possible: do not pay it in another way. The same request within"
        f" {WINDOW_SECONDS} seconds, or GET /v1/refunds/{refund.id}, shows its hash",
        code="not-sent-yet",
        blocked_by=refund.moving.blocked_by,
        **data,
    )


def _read_object(params: Sequence[Any]) -> dict[str, Any]:
    """Return the only parameter, without the fields that are null."""
    if len(params) != 1 or not isinstance(params[0], dict):
        raise RPCError(INVALID_PARAMS, "params must be one transaction object")
    return {name: value for name, value in params[0].items() if value is not None}


def _read_two(params: Sequence[Any], what: str) -> Sequence[Any]:
    if len(params) != 2:  # noqa: PLR2004
        raise RPCError(INVALID_PARAMS, f"params must be {what}")
    return params


def _not_found(method: str) -> RPCError:
    # go-ethereum's words, by which tools know what a node lacks.
    problem = f"the method {_show(method)} does not exist/is not available"
    return RPCError(METHOD_NOT_FOUND, problem)


def _show(method: str) -> str:
    """Return *method*, which the caller chose, if it looks like one."""
    return method if re.fullmatch(r"[A-Za-z0-9_]{1,64}", method) else "of this name"
