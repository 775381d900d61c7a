"""
Changes that need two administrators: one asks, and another one approves.

An administrator asks by requesting the change.  The request is refused, and its
proposal is stored.  Once another administrator has approved that proposal, the same
request is executed.  A proposal names exactly what will be done and the state that it
ends, so an approval fits one change.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import KW_ONLY, dataclass, replace
from datetime import datetime, timedelta
from typing import Self

from signer.alerts import Alert, Alerts
from signer.audit.actions import AuditAction
from signer.audit.log import AuditLog
from signer.errors import (
    ApprovalRequiredError,
    ConflictError,
    InvalidInputError,
    NotFoundError,
    PermissionDeniedError,
    SamePersonError,
    StaleStateError,
    StoreError,
    UnidentifiedOperatorError,
)
from signer.model.approval import (
    BETWEEN_NAMES,
    Approval,
    ApprovalState,
    ApprovalUse,
    Proposal,
    is_other_person,
)
from signer.model.approvers import (
    Approvers,
    Consent,
    Signed,
    read_signatures,
    write_evidence,
)
from signer.model.audit_record import (
    WORKER,
    Actor,
    Record,
    identify,
    is_identified,
    require_reason,
)
from signer.ports.clock import Clock
from signer.ports.control_store import ControlStore


VALID_FOR = timedelta(hours=24)
"""How long after the first request the change can be approved and made."""

MAX_LISTED = 200
"""How many proposals are listed at most."""

SHOWN_DIGITS = 16
"""How many digits of a digest are shown to people; commands accept them."""

MAX_READ = 20_000
"""How many rows a list reads at most, to find what another program did not insert."""

_PAGE = 500

_MAX_ALIKE = 100

_TRIES = 3

_CLOCK = Actor("clock")

_ACTIONS = {
    Consent.APPROVE: AuditAction.APPROVAL_GRANT,
    Consent.BREAK_GLASS: AuditAction.APPROVAL_BREAK_GLASS,
}

_DECIDED = frozenset({ApprovalState.APPROVED, ApprovalState.REJECTED})


@dataclass(frozen=True, slots=True)
class OpenApprovals:
    """
    A page of what waits for a decision or for its execution.

    What administrators asked for comes first, then refunds, in which tenants take
    turns; of each, the oldest first.

    ``changed`` counts the rows that another program changed or inserted: they approve
    nothing, and are left out.  If more rows may be open, ``is_complete`` is False, and
    the next page starts at ``following``.
    """

    approvals: Sequence[Approval]
    changed: int
    following: int | None = None

    @property
    def is_complete(self) -> bool:
        """Whether no other row is open."""
        return self.following is None


def read_open_approvals(store: ControlStore, start: int = 0) -> OpenApprovals:
    """
    Return what waits, at most ``MAX_LISTED``, from row *start* on.

    A program that can write rows can insert thousands with an early time: they are read
    past, so that they hide no proposal.
    """
    found: list[Approval] = []
    changed, place = 0, start
    while place - start < MAX_READ:
        page = store.open_approvals(place, _PAGE)
        for row in page:
            if len(found) == MAX_LISTED:
                return OpenApprovals(found, changed, place)
            place += 1
            if row.is_authentic:
                found.append(row)
            else:
                changed += 1
        if len(page) < _PAGE:
            return OpenApprovals(found, changed)
    return OpenApprovals(found, changed, place)


def find_approval(store: ControlStore, digest: str) -> Approval:
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
    stored = store.find_approval(digest)
    alike = [stored] if stored else store.approvals_like(digest, _MAX_ALIKE)
    found = [each for each in alike if each.is_authentic]
    if len(found) > 1 or (not found and len(alike) == _MAX_ALIKE):
        raise InvalidInputError(
            "begins the digests of several proposals: give all 64 digits",
            field="digest",
        )
    if not found:
        raise NotFoundError("there is no such proposal: see `hotwallet approvals list`")
    return found[0]


class ApprovalChanges:
    """
    Makes each change by compare-and-set, and logs its record afterwards.

    Every method that stores raises ``StaleStateError`` if another process has changed
    the approval, and ``StoreError`` if the ledger does not answer.
    """

    def __init__(self, store: ControlStore, audit: AuditLog, clock: Clock) -> None:
        self._store = store
        self._audit = audit
        self._clock = clock

    def draft(
        self,
        action: AuditAction,
        approval: Approval,
        actor: Actor,
        signed: Signed | None = None,
    ) -> Record:
        """
        Draft the record that *actor* makes *approval* what it is.

        With all that was *signed*, an auditor verifies it without the ledger.
        """
        is_new = action is AuditAction.APPROVAL_REQUEST
        return self._audit.approval(
            action,
            actor,
            {} if signed is None else write_evidence(approval, signed),
            **({"proposal": approval.proposal} if is_new else {}),
            digest=approval.digest,
            state=str(approval.state),
            requested_by=approval.requested_by,
            reason=actor.reason,
        )

    def ask(self, before: Approval | None, new: Approval, actor: Actor) -> Approval:
        """Store *new*, which *actor* asks for, in place of *before*; return it."""
        return self._put(before, new, AuditAction.APPROVAL_REQUEST, actor)

    def move(
        self,
        before: Approval,
        state: ApprovalState,
        action: AuditAction,
        actor: Actor,
        *,
        decided_by: str | None = None,
    ) -> Approval:
        """
        Move *before* to *state*, and return it as it is stored.

        *decided_by* are the people who decided; *actor* if it is None.
        """
        after = replace(before, state=state)
        if state in _DECIDED or decided_by is not None:
            name = decided_by or actor.name
            after = replace(after, decided_by=name, decided_at=self._clock())
        return self._put(before, after, action, actor)

    def sign(
        self, before: Approval, after: Approval, signed: Signed, actor: Actor
    ) -> Approval:
        """Store *after*, which has what was *signed*, in place of *before*."""
        after = replace(after, decided_at=self._clock())
        action = _ACTIONS[signed.consent]
        return self._put(before, after, action, actor, signed)

    def expire(self, found: Approval) -> bool:
        """Return whether the time of *found* is over, after this was recorded."""
        if not found.is_expired(self._clock()):
            return False
        with suppress(StaleStateError):  # Another process recorded it.
            expired, action = ApprovalState.EXPIRED, AuditAction.APPROVAL_EXPIRE
            self.move(found, expired, action, _CLOCK)
        return True

    def _put(
        self,
        before: Approval | None,
        after: Approval,
        action: AuditAction,
        actor: Actor,
        signed: Signed | None = None,
    ) -> Approval:
        record = self.draft(action, after, actor, signed)
        self._store.put_approval(before, after, record)
        self._audit.log(record)
        return replace(after, version=0 if before is None else before.version + 1)


def _unidentified(approval: Approval) -> UnidentifiedOperatorError:
    return UnidentifiedOperatorError(
        "an approval needs two administrators, and the user name of a host proves"
        " nothing: both must show a token (the API, or OPERATOR_TOKEN_FILE for"
        " commands). In an emergency: `hotwallet approvals break-glass"
        f" {approval.digest[:SHOWN_DIGITS]}`"
    )


@dataclass(eq=False, repr=False)
class Approvals:
    """
    Requires, gives and refuses approvals.

    Without *required*, one administrator may make every change.  With *approvers* it is
    required, and only their signatures approve.

    Every method raises ``StoreError`` if the ledger does not answer.
    """

    store: ControlStore
    audit: AuditLog
    alerts: Alerts
    clock: Clock
    _: KW_ONLY
    required: bool
    approvers: Approvers | None = None

    def __post_init__(self) -> None:
        self.required = self.required or self.approvers is not None
        self._changes = ApprovalChanges(self.store, self.audit, self.clock)

    def verified_by(self, approvers: Approvers | None) -> Self:
        """Return the same, for signatures of *approvers*."""
        same = approvers == self.approvers
        return self if same else replace(self, approvers=approvers)

    @contextmanager
    def authorize(
        self, proposal: Proposal, actor: Actor, *, asks: bool = True
    ) -> Iterator[ApprovalUse | None]:
        """
        Run the block, which makes the change, if *proposal* is approved.

        The block passes what this yields to the store, which ends the approval in the
        transaction of the change.  If the block fails or its process dies before that,
        the same request can be repeated.  Without an approval, store the proposal with
        the reason of *actor*, unless *asks* is false.

        Raises:
            ApprovalRequiredError: It is not approved.
            ConflictError: The same, without *asks*.
            UnidentifiedOperatorError: The same, and no second administrator could
                approve it, because the operator shows no token.  Only ``break_glass``
                completes it.
            InvalidInputError: The reason is too long or not printable.
        """
        if actor.reason:
            require_reason(actor.reason)
        if not self.required:
            yield None
            return
        use = self._require(proposal, actor, asks=asks)
        yield use
        with suppress(StoreError):  # The change is made.
            found = self.store.find_approval(proposal.digest)
            if found == replace(use.done, version=use.approval.version + 1):
                self.audit.log(use.record)

    def is_approved(self, proposal: Proposal) -> bool:
        """Return whether ``authorize`` would run its block now."""
        found = self.store.find_approval(proposal.digest)
        is_usable = found is not None and self._is_usable(found, self.clock())
        return is_usable or not self.required

    def list(self, start: int = 0) -> OpenApprovals:
        """Return a page of what waits, as ``read_open_approvals``."""
        found = read_open_approvals(self.store, start)
        if found.changed:
            self.alerts.remind(
                Alert.ROW_CHANGED,
                "approvals",
                subject="approvals",
                problem=f"{found.changed} rows of `approvals` have no valid MAC",
            )
        expire = self._changes.expire
        waiting = [each for each in found.approvals if not expire(each)]
        return replace(found, approvals=waiting)

    def find(self, digest: str) -> Approval:
        """Return the proposal with *digest*; as ``find_approval``."""
        return find_approval(self.store, digest)

    def approve(
        self, digest: str, actor: Actor, signature: str | None = None
    ) -> Approval:
        """
        Let the proposal with *digest* be executed.

        If there are approvers with keys, the *signature* says who approves, and *actor*
        only hands it in.  The one who asked may be one of those who sign.

        If a worker asked for it, the first administrator who approves it asks for it as
        well, and it still waits.  It also waits while it needs more approvals.

        Raises:
            NotFoundError: There is no such proposal, or another program changed it.
            PermissionDeniedError: *actor* is not in a group that the rules demand.
            SamePersonError: *actor* asked for it, or has approved it already.
            UnidentifiedOperatorError: *actor* or the one who asked showed no token.
            ConflictError: It was decided before, or its time is over.
            InvalidInputError: The reason is empty, too long, or not printable; or
                there is no *signature*, or no file to verify it.
        """
        found = self._find(digest, actor)
        if approvers := self._approvers_for(signature):
            signed = approvers.require(found, str(signature), Consent.APPROVE)
            return self._sign(approvers, found, signed, actor)
        _require_groups(found, actor)
        if found.requested_by == WORKER.name and _is_better_asked(found, actor):
            # A worker asks for a refund that was accepted before it needed an approval.
            # No person is known to have asked, so two must agree: this is the first.
            new = replace(found, requested_by=actor.name, reason=actor.reason)
            return self._changes.ask(found, new, actor)
        for name in (actor.name, found.requested_by):
            if not is_identified(name):
                raise _unidentified(found)
        if not is_other_person(actor.name, found.requested_by):
            raise SamePersonError(
                "another administrator must approve it: you asked for the change"
            )
        if found.needed > 1:
            return self._approve_together(found, actor)
        return self._approve(found, AuditAction.APPROVAL_GRANT, actor)

    def break_glass(
        self, digest: str, actor: Actor, signature: str | None = None
    ) -> Approval:
        """
        Approve the proposal with *digest* alone, in an emergency; sounds an alert.

        Raises as ``approve``, except for who *actor* is.
        """
        found = self._find(digest, actor)
        signed = None
        if approvers := self._approvers_for(signature):
            signed = approvers.require(found, str(signature), Consent.BREAK_GLASS)
        # First, so that a process that dies in between was not silent.
        self.alerts.sound(
            Alert.BREAK_GLASS,
            action=found.action,
            actor=identify(signed.approver) if signed else actor.name,
            reason=actor.reason,
        )
        if approvers and signed:
            return self._sign(approvers, found, signed, actor)
        return self._approve(found, AuditAction.APPROVAL_BREAK_GLASS, actor)

    def reject(self, digest: str, actor: Actor) -> Approval:
        """
        Refuse the proposal with *digest*, also if it was approved and is not used yet.

        The administrator who asked may withdraw it in this way.  Raises as ``approve``,
        except for who *actor* is.
        """
        found = self._find(digest, actor)
        action = AuditAction.APPROVAL_REJECT
        rejected = ApprovalState.REJECTED
        return self._changes.move(found, rejected, action, actor)

    def _require(self, proposal: Proposal, actor: Actor, *, asks: bool) -> ApprovalUse:
        """Return the use of the approval of *proposal*, or ask for one."""
        for _ in range(_TRIES):
            found = self.store.find_approval(proposal.digest)
            with suppress(StaleStateError):
                return self._use_or_ask(found, proposal, actor, asks=asks)
        raise StaleStateError("other processes keep changing the approval: try again")

    def _use_or_ask(
        self,
        found: Approval | None,
        proposal: Proposal,
        actor: Actor,
        *,
        asks: bool,
    ) -> ApprovalUse:
        now = self.clock()
        if found is not None and self._is_usable(found, now):
            return self._use(found, actor)
        if not asks:
            raise ConflictError("nothing was changed: the change is not approved")
        if found is None or not found.is_unused(now) or self._is_void(found, actor):
            found = self._ask(found, proposal, actor, now)
        if not self._can_be_approved(found):
            raise _unidentified(found)
        raise ApprovalRequiredError(
            "another administrator must approve this first: `hotwallet approvals"
            f" approve {found.digest[:SHOWN_DIGITS]}`; then repeat the request",
            digest=found.digest,
            expires_at=found.expires_at,
        )

    def _is_usable(self, found: Approval, now: datetime) -> bool:
        # First whether it is authentic: nothing else of such a row is read.
        return found.is_usable(now) and (
            self.approvers is None or self.approvers.accepts(found)
        )

    def _is_void(self, found: Approval, actor: Actor) -> bool:
        """Return whether *found*, which is not usable, must be asked for again."""
        if self.approvers is None:
            return _is_better_asked(found, actor)
        return found.state is ApprovalState.APPROVED  # Its signatures do not count.

    def _can_be_approved(self, found: Approval) -> bool:
        return self.approvers is not None or found.can_be_approved

    def _approvers_for(self, signature: str | None) -> Approvers | None:
        """Return who verifies *signature*; None if tokens decide."""
        if self.approvers is not None and signature is None:
            raise InvalidInputError(
                "is required: people approve with keys of their own (docs/how-to/"
                "approvals.md#keys-of-the-approvers)",
                field="signature",
            )
        if self.approvers is None and signature is not None:
            raise InvalidInputError(
                "proves nothing here: APPROVERS_FILE is not set", field="signature"
            )
        return self.approvers

    def _sign(
        self, approvers: Approvers, found: Approval, signed: Signed, actor: Actor
    ) -> Approval:
        """Add what was *signed*; *found* is approved once enough people have."""
        given = approvers.given(found)
        if found.state is ApprovalState.APPROVED and approvers.accepts(found):
            raise ConflictError("nothing was changed: the proposal is approved")
        if given.get(signed.approver) is signed.consent:
            raise SamePersonError(
                f"another person must approve it as well: {signed.approver} did already"
            )
        self._require_counter(signed)
        after = replace(found, signatures=signed.added_to(found.signatures))
        is_last = approvers.accepts(after)
        after = replace(
            after,
            state=ApprovalState.APPROVED if is_last else ApprovalState.WAITING,
            decided_by=BETWEEN_NAMES.join(map(identify, approvers.given(after))),
        )
        return self._changes.sign(found, after, signed, actor)

    def _require_counter(self, signed: Signed) -> None:
        """Refuse a copy of an authenticator: what it counts does not rise."""
        new = signed.signature
        name = identify(signed.approver)
        counters = [
            each.counter
            for approval in self.store.signed_approvals(name, _MAX_ALIKE)
            if approval.is_authentic
            for _, each in read_signatures(approval)
            if each.key_id == new.key_id
        ]
        greatest = max(counters, default=0)
        if new.counter <= greatest and greatest:
            self.alerts.sound(
                Alert.APPROVER_KEY_COPIED, approver=signed.approver, key=signed.key
            )
            raise PermissionDeniedError(
                f"there may be a copy of the key {signed.key} of {signed.approver}: its"
                " counter did not rise; remove the key from APPROVERS_FILE"
            )

    def _use(self, approval: Approval, actor: Actor) -> ApprovalUse:
        done = replace(approval, state=ApprovalState.DONE)
        record = self._changes.draft(AuditAction.APPROVAL_USE, done, actor)
        return ApprovalUse(approval, done, record)

    def _ask(
        self,
        before: Approval | None,
        proposal: Proposal,
        actor: Actor,
        now: datetime,
    ) -> Approval:
        new = Approval.of(
            proposal,
            reason=actor.reason,
            requested_by=actor.name,
            at=now,
            expires_at=now + VALID_FOR,
        )
        new = self._changes.ask(before, new, actor)
        if not self._can_be_approved(new):
            return new
        self.alerts.sound(
            Alert.APPROVAL_REQUESTED,
            action=new.action,
            actor=actor.name,
            digest=new.digest[:SHOWN_DIGITS],
        )
        return new

    def _find(self, digest: str, actor: Actor) -> Approval:
        """Return the proposal with *digest*, which can be decided."""
        require_reason(actor.reason)
        found = self.find(digest)
        if self._changes.expire(found):
            raise ConflictError("nothing was changed: the time for a decision is over")
        if not found.is_unused(self.clock()):
            raise ConflictError(f"nothing was changed: the proposal is {found.state}")
        return found

    def _approve_together(self, found: Approval, actor: Actor) -> Approval:
        """Add the approval of *actor*: *found* is approved with the last of them."""
        if found.state is ApprovalState.APPROVED:
            raise ConflictError("nothing was changed: the proposal is approved")
        if BETWEEN_NAMES in actor.name:
            raise UnidentifiedOperatorError(
                "several administrators must approve it, and the subject of your token"
                " has a space: the issuer must give you another one"
            )
        if not all(is_other_person(actor.name, each) for each in found.approvers):
            raise SamePersonError(
                "another administrator must approve it as well: you approved it already"
            )
        names = [*found.approvers, actor.name]
        is_last = len(names) >= found.needed
        return self._changes.move(
            found,
            ApprovalState.APPROVED if is_last else ApprovalState.WAITING,
            AuditAction.APPROVAL_GRANT,
            actor,
            decided_by=BETWEEN_NAMES.join(names),
        )

    def _approve(self, found: Approval, action: AuditAction, actor: Actor) -> Approval:
        if found.state is ApprovalState.APPROVED:
            raise ConflictError("nothing was changed: the proposal is approved")
        approved = ApprovalState.APPROVED
        return self._changes.move(found, approved, action, actor)


def _require_groups(found: Approval, actor: Actor) -> None:
    missing = set() if found.need is None else found.need.groups - actor.groups
    if missing:
        scopes = ", ".join(f"approver:{each}" for each in sorted(missing))
        raise PermissionDeniedError(
            f"only some people can approve it: your token needs the scope {scopes}"
        )


def _is_better_asked(found: Approval, actor: Actor) -> bool:
    """Return whether *actor* has a token, and the one who asked before had none."""
    is_waiting = found.state is ApprovalState.WAITING
    return (
        is_waiting
        and is_identified(actor.name)
        and not is_identified(found.requested_by)
    )
