"""
The errors of JSON-RPC, with the codes that clients understand.

The codes were chosen by what web3.py, ethers, viem and cast do with them.  viem answers
-32000, -32601 and -32602 by asking again as ``wallet_sendTransaction``, and cast and
ethers repeat -32005.  So these are used for what they mean only, and -32005 only for
what changed nothing (``docs/reference/json-rpc.md``).
"""

from typing import Any

from signer import errors
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
        """Return the error object."""
        # The data of a revert is a string, which clients decode.
        data = self.data.get("reverted", {**self.data, "request_id": request_id})
        return {"code": self.code, "message": str(self), "data": data}


def error_of(error: Exception) -> RPCError:
    """Return the answer to *error*."""
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
