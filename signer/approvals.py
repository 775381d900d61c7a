"""
Changes that need two administrators: one asks, and another one approves.

An administrator asks by requesting the change.  The request is refused, and its
proposal is stored.  Once another administrator has approved that proposal, the same
request is executed.  A proposal names exactly what will be done and the state that it
ends, so an approval fits one change.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import structlog

from signer.alerts import Alert, Alerts
from signer.audit.actions import AuditAction
from signer.audit.log import AuditLog
from signer.errors import (
    ApprovalRequiredError,
    ConflictError,
    InvalidInputError,
    NotFoundError,
    SamePersonError,
    StaleStateError,
    StoreError,
    UnidentifiedOperatorError,
)
from signer.model.approval import (
    Approval,
    ApprovalState,
    Proposal,
    is_other_person,
)
from signer.model.audit_record import (
    Actor,
    Operation,
    Record,
    is_identified,
)
from signer.ports import ApprovalStore, Clock


VALID_FOR = timedelta(hours=24)
"""How long after the first request the change can be approved and begun.

A change that has begun can be completed for as long again."""

MAX_REASON = 200
"""In characters."""

LISTED = 200
"""How many proposals are listed at most."""

SHOWN_DIGITS = 16
"""How many digits of a digest are shown to people; commands accept them."""

_TRIES = 3

_UNIDENTIFIED = (
    "an approval needs two administrators, and the user name of a host proves nothing:"
    " both must show a token (the API, or OPERATOR_TOKEN_FILE for commands). In an"
    " emergency: `hotwallet approvals break-glass`"
)

_CLOCK = Actor("clock")

_DECIDED = frozenset({ApprovalState.APPROVED, ApprovalState.REJECTED})


@dataclass
class Execution:
    """An approved change that is being made; set whether it is complete."""

    is_complete: bool = True


class Approvals:
    """
    Requires, gives and refuses approvals.

    Every method raises ``StoreError`` if the ledger does not answer.
    """

    def __init__(
        self,
        store: ApprovalStore,
        audit: AuditLog,
        alerts: Alerts,
        clock: Clock,
        *,
        required: bool,
    ) -> None:
        """Without *required*, one administrator may make every change."""
        self._store = store
        self._audit = audit
        self._alerts = alerts
        self._clock = clock
        self.required = required
        self._log = structlog.get_logger("approvals")

    @contextmanager
    def authorize(
        self, proposal: Proposal, actor: Actor, reason: str = ""
    ) -> Iterator[Execution]:
        """
        Run the block, which makes the change, if *proposal* is approved.

        Otherwise store the proposal, with the *reason* of *actor*.  An approval cannot
        be rejected once the block has begun.  If the block fails or its process dies,
        the same request completes it, for ``VALID_FOR`` after it began.

        Raises:
            ApprovalRequiredError: It is not approved.
        """
        execution = Execution()
        if not self.required:
            yield execution
            return
        approval = self._begin(proposal, actor, reason)
        yield execution
        if execution.is_complete:
            self._complete(approval, actor)

    def list(self) -> Sequence[Approval]:
        """Return what waits for a decision or for its execution, the oldest first."""
        found = self._store.open_approvals(LISTED)
        return [each for each in found if not self._expire(each)]

    def find(self, digest: str) -> Approval:
        """
        Return the proposal whose digest begins with the digits of *digest*.

        Raises:
            InvalidInputError: *digest* is too short, or fits several proposals.
            NotFoundError: There is no such proposal, or another program changed it.
        """
        if len(digest) < SHOWN_DIGITS:
            raise InvalidInputError(
                f"must have at least {SHOWN_DIGITS} digits", field="digest"
            )
        stored = self._store.find_approval(digest)
        listed = [stored] if stored else self._store.open_approvals(LISTED)
        found = [
            each
            for each in listed
            if each.is_authentic and each.digest.startswith(digest)
        ]
        if not found:
            raise NotFoundError(
                "there is no such proposal: see `hotwallet approvals list`"
            )
        if len(found) > 1:
            raise InvalidInputError(
                "begins the digests of several proposals: give all 64 digits",
                field="digest",
            )
        return found[0]

    def approve(self, digest: str, actor: Actor, reason: str) -> Approval:
        """
        Let the proposal with *digest* be executed.

        Raises:
            NotFoundError: There is no such proposal, or another program changed it.
            SamePersonError: *actor* asked for it.
            UnidentifiedOperatorError: *actor* or the one who asked showed no token.
            ConflictError: It was decided before, or its time is over.
            InvalidInputError: *reason* is empty, too long, or not printable.
        """
        found = self._find(digest, reason)
        for name in (actor.name, found.requested_by):
            if not is_identified(name):
                raise UnidentifiedOperatorError(_UNIDENTIFIED)
        if not is_other_person(actor.name, found.requested_by):
            raise SamePersonError(
                "another administrator must approve it: you asked for the change"
            )
        return self._approve(found, AuditAction.APPROVAL_GRANT, actor, reason)

    def break_glass(self, digest: str, actor: Actor, reason: str) -> Approval:
        """
        Approve the proposal with *digest* alone, in an emergency; sounds an alert.

        Raises as ``approve``, except for who *actor* is.
        """
        found = self._find(digest, reason)
        # First, so that a process that dies in between was not silent.
        self._alerts.sound(
            Alert.BREAK_GLASS, action=found.action, actor=actor.name, reason=reason
        )
        return self._approve(found, AuditAction.APPROVAL_BREAK_GLASS, actor, reason)

    def reject(self, digest: str, actor: Actor, reason: str) -> Approval:
        """
        Refuse the proposal with *digest*, also if it was approved and is not used yet.

        The administrator who asked may withdraw it in this way.  Raises as ``approve``,
        except for who *actor* is.
        """
        found = self._find(digest, reason)
        action = AuditAction.APPROVAL_REJECT
        return self._put(found, ApprovalState.REJECTED, action, actor, reason=reason)

    def _begin(self, proposal: Proposal, actor: Actor, reason: str) -> Approval:
        """Return the approval of *proposal*, which cannot be rejected any more."""
        for _ in range(_TRIES):
            found = self._store.find_approval(proposal.digest)
            with suppress(StaleStateError):
                return self._use_or_ask(found, proposal, actor, reason)
        raise StaleStateError("other processes keep changing the approval: try again")

    def _use_or_ask(
        self, found: Approval | None, proposal: Proposal, actor: Actor, reason: str
    ) -> Approval:
        now = self._clock()
        if found is not None and found.is_usable(now):
            return self._execute(found, actor, now)
        if found is None or not found.is_unused(now) or _is_better_asked(found, actor):
            found = self._ask(found, proposal, actor, reason, now)
        raise ApprovalRequiredError(
            "another administrator must approve this first: `hotwallet approvals"
            f" approve {found.digest[:SHOWN_DIGITS]}`; then repeat the request",
            digest=found.digest,
            expires_at=found.expires_at,
        )

    def _execute(self, found: Approval, actor: Actor, now: datetime) -> Approval:
        """Return *found*, whose change has begun and cannot be rejected any more."""
        has_begun = found.state is ApprovalState.EXECUTING
        until = found.expires_at if has_begun else now + VALID_FOR
        executing, action = ApprovalState.EXECUTING, AuditAction.APPROVAL_USE
        return self._put(found, executing, action, actor, until=until)

    def _complete(self, approval: Approval, actor: Actor) -> None:
        """
        Record that the change of *approval* is made.

        The change itself is committed: a failure here must not look like its failure.
        The row then expires.
        """
        found: Approval | None = approval
        try:
            for _ in range(_TRIES):
                if found is None or found.state is not ApprovalState.EXECUTING:
                    return  # Another process completed the same change.
                with suppress(StaleStateError):
                    self._put(
                        found, ApprovalState.DONE, AuditAction.APPROVAL_USE, actor
                    )
                    return
                found = self._store.find_approval(approval.digest)
        except StoreError as e:
            self._log.warning("approval-not-completed", code=e.code)

    def _ask(
        self,
        before: Approval | None,
        proposal: Proposal,
        actor: Actor,
        reason: str,
        now: datetime,
    ) -> Approval:
        new = Approval.of(
            proposal,
            reason=reason,
            requested_by=actor.name,
            at=now,
            expires_at=now + VALID_FOR,
        )
        record = self._draft(AuditAction.APPROVAL_REQUEST, new, actor, reason)
        self._store.put_approval(before, new, record)
        self._audit.log(record)
        self._alerts.sound(
            Alert.APPROVAL_REQUESTED,
            action=new.action,
            actor=actor.name,
            digest=new.digest[:SHOWN_DIGITS],
        )
        return new

    def _find(self, digest: str, reason: str) -> Approval:
        """Return the proposal with *digest*, which can be decided."""
        require_reason(reason)
        found = self.find(digest)
        if self._expire(found):
            raise ConflictError("nothing was changed: the time for a decision is over")
        if not found.is_unused(self._clock()):
            raise ConflictError(f"nothing was changed: the proposal is {found.state}")
        return found

    def _approve(
        self, found: Approval, action: AuditAction, actor: Actor, reason: str
    ) -> Approval:
        if found.state is ApprovalState.APPROVED:
            raise ConflictError("nothing was changed: the proposal is approved")
        return self._put(found, ApprovalState.APPROVED, action, actor, reason=reason)

    def _expire(self, found: Approval) -> bool:
        """Return whether the time of *found* is over, after this was recorded."""
        if not found.is_expired(self._clock()):
            return False
        with suppress(StaleStateError):  # Another process recorded it.
            self._put(found, ApprovalState.EXPIRED, AuditAction.APPROVAL_EXPIRE, _CLOCK)
        return True

    def _put(
        self,
        before: Approval,
        state: ApprovalState,
        action: AuditAction,
        actor: Actor,
        *,
        reason: str = "",
        until: datetime | None = None,
    ) -> Approval:
        """Move *before* to *state*, with an audit record in the same transaction."""
        after = replace(before, state=state, expires_at=until or before.expires_at)
        if state in _DECIDED:
            after = replace(after, decided_by=actor.name, decided_at=self._clock())
        record = self._draft(action, after, actor, reason)
        self._store.put_approval(before, after, record)
        self._audit.log(record)
        return replace(after, version=before.version + 1)

    def _draft(
        self, action: AuditAction, approval: Approval, actor: Actor, reason: str
    ) -> Record:
        is_new = action is AuditAction.APPROVAL_REQUEST
        return self._audit.result(
            action,
            Operation.ADMINISTRATION,
            actor,
            **({"proposal": approval.proposal} if is_new else {}),
            digest=approval.digest,
            state=str(approval.state),
            requested_by=approval.requested_by,
            reason=reason,
        )


def _is_better_asked(found: Approval, actor: Actor) -> bool:
    """Return whether *actor* has a token, and the one who asked before had none."""
    is_waiting = found.state is ApprovalState.WAITING
    return (
        is_waiting
        and is_identified(actor.name)
        and not is_identified(found.requested_by)
    )


def require_reason(reason: str) -> None:
    """Raise ``InvalidInputError`` unless *reason* is one line of printable text."""
    if not (0 < len(reason.strip()) <= len(reason) <= MAX_REASON):
        raise InvalidInputError(
            f"must explain the change, in 1 to {MAX_REASON} characters", field="reason"
        )
    if not reason.isprintable():
        raise InvalidInputError("must be one line of printable text", field="reason")
