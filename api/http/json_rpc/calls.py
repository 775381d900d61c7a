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
class Call:
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

    calls: Sequence[Call]
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


def _read_call(value: object) -> Call:
    if not isinstance(value, dict):
        return _invalid(None, "a request must be an object")
    call_id = value.get("id")
    is_id = call_id is None or type(call_id) is int or isinstance(call_id, str)
    if not is_id or len(str(call_id)) > _LONGEST_ID:
        return _invalid(None, "id must be a short string, an integer or null")
    if value.get("jsonrpc") != "2.0":
        return _invalid(call_id, 'jsonrpc must be "2.0"')
    if not isinstance(value.get("method"), str):
        return _invalid(call_id, "method must be a string")
    if not value.keys() <= _MEMBERS:
        return _invalid(call_id, "a request has jsonrpc, id, method and params only")
    params = value.get("params")
    if params is None:
        params = []
    if not isinstance(params, list):
        return _invalid(call_id, "params must be an array")
    return Call(call_id, value["method"], params, is_notification="id" not in value)


def _invalid(call_id: _ID, problem: str) -> Call:
    return Call(call_id, problem=RPCError(INVALID_REQUEST, problem))
