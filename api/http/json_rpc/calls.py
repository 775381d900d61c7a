"""The requests of a body: one, or a batch (JSON-RPC 2.0, sections 4 and 6)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from api.http.json_rpc.errors import INVALID_REQUEST, PARSE_ERROR, RPCError
from signer import strict_json
from signer.errors import InvalidInputError


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


def read_body(body: bytes) -> Body:
    """
    Return the calls of *body*.

    Raises:
        RPCError: It is not JSON, an empty batch, or one of more than ``MAX_CALLS``.
    """
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
