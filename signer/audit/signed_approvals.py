"""Verifies what people approved with keys of their own, without the ledger."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from signer import strict_json
from signer.audit.actions import SUCCESS, AuditAction
from signer.audit.hash_chain import genuine, read_fields
from signer.errors import InvalidInputError, PermissionDeniedError
from signer.model.approval import Approval
from signer.model.approvers import Approvers, Consent, Signed
from signer.model.audit_record import Record


GRANTS: Mapping[str, Consent] = {
    AuditAction.APPROVAL_GRANT.event_for(SUCCESS): Consent.APPROVE,
    AuditAction.APPROVAL_BREAK_GLASS.event_for(SUCCESS): Consent.BREAK_GLASS,
}

_USED = AuditAction.APPROVAL_USE.event_for(SUCCESS)


@dataclass(frozen=True, slots=True)
class ApprovalsVerdict:
    """
    How many approvals enough people have signed, and what is wrong.

    Approvals that were used before the first signature are not judged: tokens approved
    until there were approvers with keys.
    """

    signed: int
    problems: Sequence[str]

    @property
    def is_good(self) -> bool:
        return not self.problems


def verify_approvals(
    records: Iterable[Record], files: Sequence[Approvers]
) -> ApprovalsVerdict:
    """
    Verify the signatures in all audit *records* with the keys of *files*.

    *files* are those of the whole time: a removed key has signed before.
    """
    # Of each request, since one that is repeated after its time has other signatures.
    found: dict[tuple[str, datetime], Approval] = {}
    used, problems = Counter[str](), list[str]()
    for record in genuine(records, {*GRANTS, _USED}):
        fields = read_fields(record)
        details = fields["details"]
        if fields["event"] == _USED:
            used[details["digest"]] += bool(found)
        elif "signed" in details:
            try:
                approval, signed = verify_grant(fields, files)
            except (InvalidInputError, PermissionDeniedError) as e:
                problems.append(f"{record.id}: {e}")
                continue
            key = approval.digest, approval.expires_at
            before = found.setdefault(key, approval)
            lines = signed.added_to(before.signatures)
            found[key] = replace(before, signatures=lines)
    enough = Counter(
        each.digest
        for each in found.values()
        if any(file.accepts(each) for file in files)
    )
    problems += [
        f"the approval {digest} was used {count} times, and enough people have signed"
        f" it {enough[digest]} times"
        for digest, count in used.items()
        if enough[digest] < count
    ]
    return ApprovalsVerdict(enough.total(), problems)


def verify_grant(
    fields: Mapping[str, Any], files: Sequence[Approvers]
) -> tuple[Approval, Signed]:
    """
    Return what the record with *fields* approves, and who has signed that.

    Raises:
        InvalidInputError: The record is none of a signed approval.
        PermissionDeniedError: No key of *files* has signed it.
    """
    details = fields["details"]
    try:
        proposal = str(details["proposal"])
        action = str(strict_json.parse(proposal.encode())["action"])
        until = datetime.fromisoformat(details["expires_at"])
        asked = str(details["requested_by"])
        digest, signature = str(details["digest"]), str(details["signed"])
    except (LookupError, TypeError, ValueError):
        raise InvalidInputError("the record is none of a signed approval") from None
    approval = Approval(digest, action, proposal, "", asked, until, until)
    if not approval.verified().is_authentic:
        raise InvalidInputError("the digest is not that of the proposal")
    problem = PermissionDeniedError("there is no file of approvers")
    for file in files:
        try:
            return approval, file.require(approval, signature, GRANTS[fields["event"]])
        except PermissionDeniedError as e:
            problem = e
    raise problem
