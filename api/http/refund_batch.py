"""Many refunds in one request."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from api.http.body import is_idempotency_key
from api.http.operations import Call
from api.http.problems import problem_of, report
from api.request_context import principal, request_id
from api.views.refunds import BatchResultDocument, BatchResultsDocument
from api.views.requests import MAX_BODY, MAX_MEMBERS, SignedBatchMemberBody
from signer import strict_json
from signer.errors import HotWalletError, InvalidInputError
from signer.model.acceptance import NO_SIGNATURE, SignedRequest
from signer.refunds.acceptance import SubmissionResult, SubmittedRequest
from signer.refunds.request_body import read_body, read_refund


_CREATED, _OK = 201, 200

_MESSAGES = {
    "missing": "must be a string",
    "string_type": "must be a string",
    "string_too_long": "is too long",
    "extra_forbidden": "is not a field of a refund with a body",
}


def submit_batch(call: Call, payload: dict[str, Any]) -> BatchResultsDocument:
    """
    Accept or refuse each of up to ``MAX_MEMBERS`` members by itself.

    Each has its own idempotency key.  The answer does not wait for the workers.

    Raises:
        InvalidInputError: *payload* is no list of members with keys of their own.
    """
    members = _read_members(payload)
    read = [_read(call, each, is_first=i == 0) for i, each in enumerate(members)]
    submitted = iter(
        call.container.refunds.submit_all(
            tenant=call.tenant,
            requests=[each for each in read if isinstance(each, SubmittedRequest)],
            actor=call.actor,
            trace=call.req.get_header("traceparent"),
        )
    )
    outcomes = [
        next(submitted) if isinstance(each, SubmittedRequest) else each for each in read
    ]
    _report([each for each in outcomes if isinstance(each, HotWalletError)])
    results = [
        _result(member["idempotency_key"], outcome, request_id(call.req))
        for member, outcome in zip(members, outcomes, strict=True)
    ]
    return BatchResultsDocument(results=results)


def _read(
    call: Call, member: dict[str, Any], *, is_first: bool
) -> SubmittedRequest | HotWalletError:
    try:
        if not is_first:  # The request was counted for its first member.
            call.container.access.count(principal(call.req), call.tenant)
        return _read_member(member)
    except HotWalletError as e:
        return e


def _result(
    key: str, outcome: SubmissionResult, request_id: str
) -> BatchResultDocument:
    """Return what became of the member with *key*."""
    shown: dict[str, Any]
    if isinstance(outcome, HotWalletError):
        problem = problem_of(outcome)
        shown = {"status": problem.status, "problem": problem.document(request_id)}
        if "Retry-After" in problem.headers:
            shown["retry_after"] = int(problem.headers["Retry-After"])
    else:
        status = _CREATED if outcome.created else _OK
        shown = {"status": status, "refund": outcome.refund}
    return BatchResultDocument(idempotency_key=key, **shown)


def _report(errors: Sequence[HotWalletError]) -> None:
    """Log one error of each code whose answer does not have its details."""
    for error in {error.code: error for error in errors}.values():
        report(problem_of(error), error)


def _read_members(payload: dict[str, Any]) -> Sequence[dict[str, Any]]:
    """
    Return the members of a batch, each with an idempotency key of its own.

    Raises:
        InvalidInputError: There are none, or too many; a member has no valid key; or
            two have the same.
    """
    members = payload.get("refunds")
    if not isinstance(members, list):
        raise InvalidInputError("must be a list of refunds", field="refunds")
    if len(payload) > 1:
        raise InvalidInputError("the body has one member only, refunds")
    if not 1 <= len(members) <= MAX_MEMBERS:
        raise InvalidInputError(
            f"must have 1 to {MAX_MEMBERS} refunds; this has {len(members)}",
            field="refunds",
        )
    for number, member in enumerate(members):
        if not isinstance(member, dict):
            raise InvalidInputError("must be an object", field=f"refunds.{number}")
        if not is_idempotency_key(member.get("idempotency_key")):
            raise InvalidInputError(
                "must hold 1 to 255 visible ASCII characters",
                field=f"refunds.{number}.idempotency_key",
            )
    _require_distinct([member["idempotency_key"] for member in members])
    return members


def _require_distinct(keys: Sequence[str]) -> None:
    ((key, times),) = Counter(keys).most_common(1)
    if times > 1:
        number = len(keys) - 1 - keys[::-1].index(key)
        raise InvalidInputError(
            f"is that of refunds.{keys.index(key)} too; each needs its own key",
            field=f"refunds.{number}.idempotency_key",
        )


def _read_member(member: dict[str, Any]) -> SubmittedRequest:
    """
    Return the refund that *member* requests, with a signature if it has one.

    Raises:
        InvalidInputError: A field is missing, unknown or malformed.
    """
    fields = {name: each for name, each in member.items() if name != "idempotency_key"}
    strict_json.check(fields)
    signed = _read_signed(member) if "body" in fields else NO_SIGNATURE
    payload = strict_json.loads(signed.body) if "body" in fields else fields
    return SubmittedRequest(member["idempotency_key"], read_refund(payload), signed)


def _read_signed(member: dict[str, Any]) -> SignedRequest:
    read = read_body(SignedBatchMemberBody, member, _MESSAGES)
    body = read.body.encode()
    if len(body) > MAX_BODY:
        raise InvalidInputError("is too long", field="body")
    headers = read.content_digest, read.signature_input, read.signature
    return SignedRequest(body, *headers)
