"""Calls of JSON-RPC, read strictly, and the errors that answer them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from signer import errors, strict_json
from signer.errors import HotWalletError, InvalidInputError, PolicyViolationError


PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
"""JSON-RPC 2.0, section 5.1."""

RESOURCE_UNAVAILABLE = -32002
TRANSACTION_REJECTED = -32003
LIMIT_EXCEEDED = -32005
"""EIP-1474."""

REFUSED = 4001
UNAUTHORIZED = 4100
CHAIN_DISCONNECTED = 4901
"""EIP-1193: the user rejected the request; the account is not available; the chain."""

REVERTED = 3
"""What go-ethereum answers if a contract reverts."""

_INTERNAL = "an internal error occurred; the log has it under request_id"

# The nearest base class counts, and any other error is an internal one.
_CODES: dict[type[Exception], int] = {
    errors.InvalidInputError: INVALID_PARAMS,
    errors.ForeignAddressError: UNAUTHORIZED,
    errors.PolicyViolationError: REFUSED,
    errors.PermissionDeniedError: UNAUTHORIZED,
    errors.RequestSignatureError: UNAUTHORIZED,
    errors.RateLimitedError: LIMIT_EXCEEDED,
    errors.OpenRefundsLimitError: TRANSACTION_REJECTED,
    errors.ConflictError: TRANSACTION_REJECTED,
    errors.RevertedCallError: REVERTED,
    errors.ChainUnavailableError: RESOURCE_UNAVAILABLE,
    errors.BackendError: RESOURCE_UNAVAILABLE,
    errors.AuditLogUnwritableError: RESOURCE_UNAVAILABLE,
    errors.LimitReachedError: RESOURCE_UNAVAILABLE,
    errors.SigningStoppedError: RESOURCE_UNAVAILABLE,
    errors.StoreUnavailableError: RESOURCE_UNAVAILABLE,
    errors.StaleStateError: RESOURCE_UNAVAILABLE,
}

# Their messages are for operators: callers get the code.
_PRIVATE = (errors.BackendError, errors.StoreError, errors.AuditLogUnwritableError)
_UNAVAILABLE = "the service cannot do this at the moment; try again later"


class RPCError(Exception):
    """An error with a *code* of JSON-RPC; *data* has what programs may decide by."""

    def __init__(self, code: int, message: str, /, **data: Any) -> None:
        super().__init__(message)
        self.code = code
        self.data = data

    def document(self, request_id: str) -> dict[str, Any]:
        # The data of a revert is a string, which clients decode.
        data = self.data.get("reverted", {**self.data, "request_id": request_id})
        return {"code": self.code, "message": str(self), "data": data}


def error_of(error: Exception) -> RPCError:
    if isinstance(error, RPCError):
        return error
    row = next((_CODES[each] for each in type(error).__mro__ if each in _CODES), None)
    if not isinstance(error, HotWalletError):
        return RPCError(INTERNAL_ERROR, _INTERNAL, code=HotWalletError.code)
    if row is None:
        return RPCError(INTERNAL_ERROR, _INTERNAL, code=error.code)
    if isinstance(error, _PRIVATE):
        return RPCError(row, _UNAVAILABLE, code=error.code)
    return RPCError(row, _message(error), **_data(error))


def _message(error: HotWalletError) -> str:
    if isinstance(error, errors.RevertedCallError):
        return f"execution reverted: {error}"
    field = getattr(error, "field", None)
    text = str(error)
    return f"{field}: {text}" if field and not text.startswith(field) else text


def _data(error: HotWalletError) -> dict[str, Any]:
    data: dict[str, Any] = {"code": error.code}
    if isinstance(error, PolicyViolationError):
        data["rule"] = error.rule
    if isinstance(error, InvalidInputError) and error.field is not None:
        data["field"] = error.field
    if isinstance(error, errors.ConflictError) and error.refund_id is not None:
        data["refund_id"] = error.refund_id
    if isinstance(error, errors.RateLimitedError):
        data["retry_after"] = error.retry_after
    if isinstance(error, errors.RevertedCallError) and error.data is not None:
        data["reverted"] = f"0x{error.data.hex()}"
    return data


MAX_CALLS = 100
"""The most calls of a batch: ethers sends up to 100."""

MAX_DEPTH = 64
"""The most levels of JSON: typed data is the deepest that clients send."""

_ID = str | int | None
_MEMBERS = frozenset({"jsonrpc", "id", "method", "params"})
_LONGEST_ID = 256


@dataclass(frozen=True, slots=True)
class RPCCall:
    """
    One call; *params* are by position.

    A notification has no id, and gets no answer.  *problem* is why the call is not
    valid.
    """

    id: _ID = None
    method: str = ""
    params: Sequence[Any] = ()
    is_notification: bool = False
    problem: RPCError | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Body:
    """The calls of one body, and whether they are a batch."""

    calls: Sequence[RPCCall]
    is_batch: bool


def read_calls(body: bytes) -> Body:
    """Return the calls of *body*; raises ``RPCError``."""
    try:
        document = strict_json.decode(body, MAX_DEPTH)
    except InvalidInputError as e:
        raise RPCError(PARSE_ERROR, f"the body cannot be read: {e}") from None
    if not isinstance(document, list):
        return Body([_read_call(document)], is_batch=False)
    if not 1 <= len(document) <= MAX_CALLS:
        problem = f"a batch has 1 to {MAX_CALLS} calls; this has {len(document)}"
        raise RPCError(INVALID_REQUEST, problem)
    return Body([_read_call(each) for each in document], is_batch=True)


def _read_call(value: object) -> RPCCall:
    fields = value if isinstance(value, dict) else {}
    call_id = fields.get("id")
    if not _is_id(call_id):
        return _invalid(None, "id must be a short string, an integer or null")
    params = fields.get("params")
    params = [] if params is None else params
    rules = {
        "a request must be an object": fields is value,
        'jsonrpc must be "2.0"': fields.get("jsonrpc") == "2.0",
        "method must be a string": isinstance(fields.get("method"), str),
        "a request has jsonrpc, id, method and params only": fields.keys() <= _MEMBERS,
        "params must be an array": isinstance(params, list),
    }
    for rule, holds in rules.items():
        if not holds:
            return _invalid(call_id, rule)
    return RPCCall(
        call_id, fields["method"], params, is_notification="id" not in fields
    )


def _is_id(value: object) -> bool:
    is_of_type = value is None or type(value) is int or isinstance(value, str)
    return is_of_type and len(str(value)) <= _LONGEST_ID


def _invalid(call_id: _ID, problem: str) -> RPCCall:
    return RPCCall(call_id, problem=RPCError(INVALID_REQUEST, problem))
