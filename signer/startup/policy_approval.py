"""
Refuses to start with a raised limit that another administrator has not approved.

The limits of the configuration files are compared with those that the last worker
started with.  Only workers move refunds, so only they make new limits the accepted
ones: lower ones at once, higher ones with an approval of exactly that difference.
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property
from typing import Any

from signer.approvals import Approvals
from signer.audit import configurations
from signer.audit.actions import SUCCESS, AuditAction
from signer.audit.log import AuditLog
from signer.config.digest import Change, Configuration
from signer.config.file_limits import (
    FileLimits,
    Files,
    changed_limits,
    dump_limits,
    keep_limits,
    parse_limits,
    raised_limits,
    read_approvers,
    read_limits,
)
from signer.errors import ConfigurationError, ConflictError, Refusal, StaleStateError
from signer.model.approval import ApprovalUse, Proposal
from signer.model.approvers import Approvers
from signer.model.audit_record import Actor, Record
from signer.model.worker_row import THE_ROW, AcceptedLimits
from signer.ports.clock import Clock
from signer.ports.ledger import Ledger


_TRIES = 5

_NAMED = 3
"""How many differences a refusal names."""

_SHOWN = 40
"""How many characters of a value are shown."""

_OF_RULES = "policy."
"""How the paths of files of rules begin."""

_NO_VERSION = -1
"""In place of the version of a row that does not exist."""


@dataclass(frozen=True)
class LimitsDifference:
    """
    How the limits of the files differ from the accepted ones.

    ``before`` has no values if another program changed ``row``: then every limit is a
    raised one.  It is None in a new ledger, where nothing needs an approval.
    """

    row: AcceptedLimits | None
    before: FileLimits | None
    after: FileLimits = field(repr=False)

    @cached_property
    def changed(self) -> Mapping[str, Change]:
        before = self.after if self.before is None else self.before
        return changed_limits(before, self.after)

    @cached_property
    def raised(self) -> Mapping[str, Change]:
        """What the files allow and the accepted limits do not, by its path."""
        return {} if self.before is None else raised_limits(self.before, self.after)

    @property
    def is_of_rules(self) -> bool:
        """Whether nothing but files of rules differs."""
        return all(path.startswith(_OF_RULES) for path in self.changed)

    @property
    def version(self) -> int:
        return _NO_VERSION if self.row is None else self.row.version

    @property
    def proposal(self) -> Proposal:
        """
        What another administrator must approve.

        It names the version, so that an approval cannot be used again after a limit was
        lowered.
        """
        facts = {**self.raised, "version": self.version}
        return Proposal(AuditAction.LIMITS_RAISE, facts)

    @property
    def is_accepted(self) -> bool:
        return (
            self.row is not None and self.row.is_authentic and self.before == self.after
        )

    def refusal(self) -> Refusal:
        shown = list(describe(self.raised))
        more = f"; and {len(shown) - _NAMED} more" if len(shown) > _NAMED else ""
        reason = "more is allowed than the last worker started with"
        if self.row is not None and not self.row.is_authentic:
            reason = (
                "another program changed the row of the accepted limits, or"
                " MAC_KEY_FILE has other keys"
            )
        return Refusal(
            "limits-raised",
            f"{reason}: {'; '.join(shown[:_NAMED])}{more}; another administrator must"
            " approve it: `hotwallet limits raise`",
        )


@dataclass(eq=False, repr=False)
class LimitsGuard:
    """
    Compares the limits of *configuration* with the accepted ones.

    Every method raises ``StoreError`` if the ledger does not answer.
    """

    store: Ledger
    approvals: Approvals
    audit: AuditLog
    configuration: Configuration
    _: KW_ONLY
    clock: Clock

    def __post_init__(self) -> None:
        self._limits = read_limits(self.configuration.document)

    def approvals_of(self, difference: LimitsDifference) -> Approvals:
        """Return what decides about *difference*, by the keys accepted before."""
        before = difference.before
        if difference.row is not None and not difference.row.is_authentic:
            before = self._recorded()  # Else a changed row would end all signatures.
        accepted = None if before is None else read_approvers(before)
        if accepted is None:
            return self.approvals.verified_by(None)
        return self.approvals.verified_by(Approvers.parse(accepted))

    def compare(self) -> LimitsDifference:
        row = self.store.accepted_limits()
        if row is not None:
            before = parse_limits(row.document) if row.is_authentic else {}
            return LimitsDifference(row, before, self._limits)
        return LimitsDifference(None, self._recorded(), self._limits)

    def is_approved(self, difference: LimitsDifference) -> bool:
        approvals = self.approvals_of(difference)
        return not difference.raised or approvals.is_approved(difference.proposal)

    def require_approved(self) -> None:
        """Refuse limits that are raised and not approved; change nothing."""
        difference = self.compare()
        while not self.is_approved(difference):
            # A worker may have used the approval since, and accepted the limits.
            again = self.compare()
            if again.version == difference.version:
                raise ConfigurationError(difference.refusal())
            difference = again

    def keep(self, files: Files) -> Files | None:
        """
        Return *files* with what waits for an approval as it was accepted.

        Return None if nothing waits, or if it cannot be kept: ``require_approved``
        then decides.
        """
        difference = self.compare()
        row, before = difference.row, difference.before
        if row is None or not row.is_authentic or self.is_approved(difference):
            return None
        return keep_limits(files, before or {}, difference.after)

    def accept(self, actor: Actor, *, rules_only: bool = False) -> None:
        """
        Make the limits the accepted ones, with an audit record, as a worker starts.

        With *rules_only* the worker runs, and may accept other rules, but not put back
        the limits of the files that it has read long ago.

        Raises:
            ConfigurationError: ``limits-raised``; or with *rules_only*
                ``limits-differ``.
            StaleStateError: Other processes keep changing them.
        """
        for _ in range(_TRIES):
            difference = self.compare()
            if difference.is_accepted:
                return
            self.require_approved()
            if rules_only and not difference.is_of_rules:
                raise ConfigurationError(_differs(difference))
            # If another worker has started or used the approval, compare again.
            with suppress(StaleStateError, ConflictError):
                self._accept(difference, actor)
                return
        raise StaleStateError("other processes keep changing the limits: try again")

    def request(self, actor: Actor) -> LimitsDifference:
        """
        Ask for an approval of what is raised, unless it is approved.

        Raises:
            ApprovalRequiredError: Another administrator must approve it.
        """
        difference = self.compare()
        if not self.is_approved(difference):
            proposal = difference.proposal
            with self.approvals_of(difference).authorize(proposal, actor):
                pass  # Approved a moment ago: a worker that starts uses it.
        return difference

    def _recorded(self) -> FileLimits | None:
        """Return the limits of the last start, as an audit record has them."""
        document = configurations.last_document(self.store)
        if document is not None:
            return read_limits(document)
        # Every process records its start before the first record is sealed.
        size, _ = self.store.head()
        return {} if size else None

    def _accept(self, difference: LimitsDifference, actor: Actor) -> None:
        if not difference.raised:
            self._put(difference, self._draft(difference, actor))
            return
        proposal, approvals = difference.proposal, self.approvals_of(difference)
        digest = proposal.digest if approvals.required else None
        with approvals.authorize(proposal, actor, asks=False) as use:
            self._put(difference, self._draft(difference, actor, digest), use)

    def _put(
        self,
        difference: LimitsDifference,
        record: Record,
        use: ApprovalUse | None = None,
    ) -> None:
        document = dump_limits(self._limits)
        new = AcceptedLimits(THE_ROW, document, self.clock())
        self.store.accept_limits(difference.row, new, record, use)
        self.audit.log(record)

    def _draft(
        self, difference: LimitsDifference, actor: Actor, approval: str | None = None
    ) -> Record:
        facts = {} if approval is None else {"approval": approval}
        is_raise = bool(difference.raised)
        action = AuditAction.LIMITS_RAISE if is_raise else AuditAction.LIMITS_ACCEPT
        return self.audit.configuration(
            action.event_for(SUCCESS),
            actor,
            evidence={"changes": difference.changed},
            version=str(difference.version + 1),
            **facts,
        )


def _differs(difference: LimitsDifference) -> Refusal:
    others = {
        path: change
        for path, change in difference.changed.items()
        if not path.startswith(_OF_RULES)
    }
    shown = list(describe(others))
    return Refusal(
        "limits-differ",
        "another worker has started with other limits, and rules alone are applied"
        f" without a restart: {'; '.join(shown[:_NAMED])}; restart this worker",
    )


def describe(changes: Mapping[str, Change]) -> Iterator[str]:
    """Return *changes* for people, one line each."""
    for path, change in changes.items():
        before, after = change.get("before"), change.get("after")
        if isinstance(after, Mapping):
            yield f"{path} is new"
        elif after is True:
            yield f"{path} is added"
        else:
            yield f"{path}: {_shown(before)} -> {_shown(after)}"


def _shown(value: Any) -> str:
    text = "none" if value is None else " ".join(str(value).split())
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
