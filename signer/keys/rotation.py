"""
Rotates the wallet to another key, so that exactly one key is active at any moment.

::

    find       resolve the given name to a key id that never changes
    view       read the ring: which key is active, and may the new key replace it?
    begin      insert the new key as pending, which excludes other rotations
    self-test  sign with the new key; the signature must recover to it
    operator   each vault must let its address pay
    balances   read what its address holds on each network
    activate   one commit: new key active, old key draining, audit record written

A process may die between any two steps.  Until the last one commits, the old key signs;
after it, the new key signs, on every host.  To resume, repeat the call with the same
key.

A rotation replaces only the key that was active when it read the ring.  An
administrator who marks the old key as compromised therefore cannot block a key that
another administrator has activated in the meantime.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import KW_ONLY, dataclass, replace

import structlog

from signer.addresses import parse_address, redact_address
from signer.alerts import Alerts
from signer.approvals import Approvals
from signer.audit.actions import AuditAction
from signer.audit.log import AuditLog
from signer.errors import (
    ChainUnavailableError,
    ConflictError,
    HotWalletError,
    InvalidInputError,
    KeyRotatedError,
    NewKeyNotFoundError,
    NewKeyUnhealthyError,
    RotationInProgressError,
    SigningError,
    StaleStateError,
    StoreError,
)
from signer.keys.admin_audit import AdminAudit, Facts, failure_code, key_facts
from signer.keys.balances import AddressBalance
from signer.keys.key_proofs import CandidateTester
from signer.keys.revocation import Revocation
from signer.keys.signer import SignerFactory
from signer.model.approval import ApprovalUse
from signer.model.audit_record import WORKER, Actor, Operation, Record
from signer.model.key import Key, KeyState, find_active_key, find_key
from signer.ports.clock import Clock
from signer.ports.key_store import KeyStore
from signer.redact import key_prefix


AWAITING_FUNDS = "awaiting-funds"
WOULD_AWAIT_FUNDS = "would-await-funds"

ALREADY = "the key was already active"

_NEW_ADDRESS = (
    "the address has changed: inform everyone who funds or monitors the wallet"
)


@dataclass(frozen=True, slots=True)
class RotationOptions:
    """
    Options of a rotation.

    ``dry_run`` self-tests the new key and changes nothing.  ``compromised`` blocks the
    old key, which then signs nothing at all; without it, the old key finishes what it
    began.  ``active_address`` is the address of the key to replace: if another key is
    active, the rotation is refused.  ``compromised`` requires it, and funds on the new
    address unless ``without_funds``: otherwise one administrator could leave all funds
    on an address whose key is blocked.  With both, the new key need not be an operator
    of each vault yet.  ``will_retry`` means that the caller retries a
    refusal that may be temporary, so that such a refusal raises no alert.
    """

    dry_run: bool = False
    compromised: bool = False
    active_address: str | None = None
    without_funds: bool = False
    will_retry: bool = False

    def facts(self) -> Facts:
        facts: Facts = {"rehearsal": self.dry_run, "compromised": self.compromised}
        if self.active_address is not None:
            facts["active_address"] = redact_address(self.active_address)
        if self.without_funds:
            facts["without_funds"] = True
        return facts

    def check(self) -> None:
        """
        Check that the options fit together.

        Raises:
            InvalidInputError: ``compromised`` names no address, or ``without_funds`` is
                used without it.
        """
        if self.compromised and self.active_address is None:
            raise InvalidInputError(
                "is required with compromised: the address of the key to revoke",
                field="active_address",
            )
        if self.without_funds and not self.compromised:
            raise InvalidInputError(
                "is for compromised keys only", field="without_funds"
            )

    def should_alert(self, error: HotWalletError) -> bool:
        if self.dry_run or not isinstance(error, NewKeyUnhealthyError):
            return False
        if isinstance(error, NewKeyNotFoundError):
            return False  # Most likely a typo, which only the caller must know.
        return not (self.will_retry and error.may_pass)


@dataclass(frozen=True, slots=True)
class RotationResult:
    """
    The outcome of a rotation.

    ``status`` is ``rotated`` or ``awaiting-funds``, and for a dry run ``would-rotate``
    or ``would-await-funds``.  ``stranded`` has the ids of open refunds that a revoked
    key has signed: they may still be mined, so a person must check them.
    """

    status: str
    key: Key
    previous: Key | None
    holdings: Sequence[AddressBalance]
    warnings: Sequence[str]
    stranded: Sequence[str] = ()


def build_result(
    status: str, key: Key, previous: Key | None, holdings: Sequence[AddressBalance]
) -> RotationResult:
    """Return the result that warns of the new address and of missing *holdings*."""
    lacking = [warning for balance in holdings for warning in balance.warnings()]
    return RotationResult(status, key, previous, holdings, (_NEW_ADDRESS, *lacking))


@dataclass(frozen=True, slots=True)
class RingView:
    """One snapshot of the *ring*, and the *candidate* that is to become active."""

    candidate: Key
    ring: Sequence[Key]

    @property
    def active(self) -> Key | None:
        return find_active_key(self.ring)

    @property
    def is_done(self) -> bool:
        """Whether the candidate is the active key."""
        active = self.active
        return active is not None and active.address == self.candidate.address

    @property
    def replaced(self) -> Key | None:
        """The key that the candidate replaces, or has replaced."""
        if not self.is_done:
            return self.active
        served = [key for key in self.ring if key.epoch and key != self.active]
        return served[0] if served else None

    def require_possible(self, address: str | None) -> None:
        """
        Check that the candidate may replace, or has replaced, the key with *address*.

        None stands for the active key.

        Raises:
            ConflictError: The candidate is blocked, or the ring has it under another
                id; or another key than that with *address* would be replaced.
        """
        known = find_key(self.ring, self.candidate.address)
        if known is not None and known.state is KeyState.BLOCKED:
            raise ConflictError("the key was revoked as compromised")
        if known is not None and known.key_id != self.candidate.key_id:
            raise ConflictError(
                "the ring has this key under another id: use `hotwallet keys failover`"
            )
        if address is not None:
            self._require_replaced(address)

    def _require_replaced(self, address: str) -> None:
        if self.replaced is not None and self.replaced.address == address:
            return
        if self.candidate.address == address:
            raise ConflictError("the new key is the key that it would replace")
        active = "no key" if self.active is None else self.active.address
        raise ConflictError(
            f"nothing was changed: {active} is active, and the new key would not"
            f" replace {address}. Run `hotwallet keys list` to see who rotated and"
            " when; then repeat the request with the right address, or revoke a former"
            " key with `hotwallet keys revoke`"
        )


_OPERATION = Operation.KEY_ROTATION

_MAX_TRIES = 2
"""If another process activated the same key first, the second try sees that."""

_DEFAULTS = RotationOptions()

_UNFUNDED = (
    "the new address lacks funds, and the rotation did not wait for them: refunds wait"
    " until the address is funded"
)

_STILL_ACTIVE = (
    "the compromised key is still active: fund the new address and repeat the request,"
    " or repeat it without waiting for funds (withoutFunds, --without-funds)"
)

_NOT_REVOKED = (
    "nothing was revoked: the active address lacks funds. Fund it and repeat the"
    " request, or repeat it without waiting for funds (withoutFunds, --without-funds)"
)

_OVERTAKEN = (
    "nothing was changed: another key became the active one in the meantime. Run"
    " `hotwallet keys list` to see who rotated, and repeat the request if it is still"
    " needed"
)


class _ActivatedError(Exception):
    """Another process activated the new key after the ring was read."""


@dataclass(eq=False, repr=False)
class Rotation:
    """
    Rotates the active key, for administrators.

    *require_operator* raises an error if a vault does not let an address pay.  With
    *needs_funds*, a new key is not activated before it has funds.  With *approvals*,
    another administrator must approve that a key is compromised.
    """

    store: KeyStore
    signers: SignerFactory
    _: KW_ONLY
    read_balances: Callable[[str], Sequence[AddressBalance]]
    require_operator: Callable[[str], None]
    alerts: Alerts
    clock: Clock
    needs_funds: bool = False
    approvals: Approvals | None = None

    def __post_init__(self) -> None:
        self._audit = audit = self.signers.audit
        self._tester = CandidateTester(self.signers, self.alerts, self.clock)
        self._admin_audit = AdminAudit(audit, _OPERATION, self.alerts, self.approvals)
        self._revocation = Revocation(self.store, audit=audit, clock=self.clock)
        self._log = structlog.get_logger("keys")

    def rotate(
        self, name: str, actor: Actor, options: RotationOptions = _DEFAULTS
    ) -> RotationResult:
        """
        Make the key *name* the active one; idempotent.

        Raises:
            InvalidInputError: *name* or ``options.active_address`` is malformed, or
                the options do not fit together.
            RotationInProgressError: Another rotation is in progress.
            ConflictError: As ``RingView.require_possible``.
            VaultOperatorMissingError: A vault does not let the key pay.
            ChainUnavailableError: The nodes do not say whether it does.
            NewKeyUnhealthyError, SelfTestPendingError: As ``CandidateTester.find``.
            StoreError: The ledger does not answer; a repeated call continues.
        """
        with self._admin_audit.attempt(
            AuditAction.KEY_ROTATE,
            actor,
            should_alert=options.should_alert,
            key=key_prefix(name),
            **options.facts(),
        ):
            result = self._rotate(name, actor, options)
        self._log.info(
            "key-rotation-succeeded",
            status=result.status,
            address=result.key.address,
            actor=actor.name,
        )
        return result

    def _rotate(
        self, name: str, actor: Actor, options: RotationOptions
    ) -> RotationResult:
        options.check()
        replaces = options.active_address
        if replaces is not None:
            replaces = parse_address(replaces, field="active_address")
        candidate = self._tester.find(name, actor)
        for _ in range(_MAX_TRIES):
            view = RingView(candidate, self.store.keys())
            view.require_possible(replaces)
            if options.dry_run:
                return self._dry_run(view, actor, options)
            try:
                with self._authorize(view, actor, options) as use:
                    return self._execute(view, actor, options, use)
            except _ActivatedError:
                # Another process activated this key first.  Accept that only if it
                # replaced the key that is active in this view.
                replaces = None if view.replaced is None else view.replaced.address
        raise RotationInProgressError(
            "other processes keep changing the ring; try again"
        )

    def _authorize(
        self, view: RingView, actor: Actor, options: RotationOptions
    ) -> AbstractContextManager[ApprovalUse | None]:
        """Require an approval if the rotation revokes a key that is not revoked yet."""
        revoked = view.replaced if options.compromised else None
        if revoked is None or revoked.state is KeyState.BLOCKED:
            return nullcontext()
        facts: Facts = {
            **key_facts("key", view.candidate),
            **key_facts("compromised_key", revoked),
            "epoch": revoked.epoch,
            "without_funds": options.without_funds,
        }
        return self._admin_audit.authorize(AuditAction.KEY_ROTATE, actor, **facts)

    def _execute(
        self,
        view: RingView,
        actor: Actor,
        options: RotationOptions,
        use: ApprovalUse | None,
    ) -> RotationResult:
        if view.is_done:
            return self._finish(view, actor, options, use)
        try:
            pending = self.store.begin_rotation(view.candidate, self.clock())
        except StaleStateError:
            raise _ActivatedError from None
        # Read again: a failover may have changed the row since the view was read.
        # None can while the pending row is held.
        seen = view.replaced
        active = seen and find_key(self.store.keys(), seen.address)
        return self._take_over(pending, active, actor, options, use)

    def _dry_run(
        self, view: RingView, actor: Actor, options: RotationOptions
    ) -> RotationResult:
        self._tester.self_test(view.candidate, actor, _OPERATION)
        if view.is_done:
            key = view.active or view.candidate
            return RotationResult("would-rotate", key, view.replaced, (), (ALREADY,))
        unpaid = self._check_operator(view.candidate.address, options)
        holdings = self.read_balances(view.candidate.address)
        waits = self._must_wait(holdings, options)
        status = WOULD_AWAIT_FUNDS if waits else "would-rotate"
        result = build_result(status, view.candidate, view.replaced, holdings)
        return replace(result, warnings=(*result.warnings, *unpaid))

    def _finish(
        self,
        view: RingView,
        actor: Actor,
        options: RotationOptions,
        use: ApprovalUse | None,
    ) -> RotationResult:
        """Return the result of a rotation that was done before this call."""
        key, previous = view.active or view.candidate, view.replaced
        if previous is None or not options.compromised:
            return RotationResult("rotated", key, previous, (), (ALREADY,))
        is_revoked = previous.state is KeyState.BLOCKED
        if not is_revoked and self._must_wait(self.read_balances(key.address), options):
            raise ConflictError(_NOT_REVOKED)
        previous, stranded = self._revocation.revoke_during_rotation(
            previous.address, actor, use
        )
        revoked = f"the key that was active before was revoked: {previous.address}"
        return RotationResult(
            "rotated", key, previous, (), (ALREADY, revoked), stranded
        )

    def _take_over(
        self,
        pending: Key,
        active: Key | None,
        actor: Actor,
        options: RotationOptions,
        use: ApprovalUse | None,
    ) -> RotationResult:
        try:
            self._tester.self_test(pending, actor, _OPERATION)
            unpaid = self._check_operator(pending.address, options)
        except (SigningError, ConflictError, ChainUnavailableError) as e:
            self._reject(pending, failure_code(e))
            raise
        holdings = self.read_balances(pending.address)
        try:
            if self._must_wait(holdings, options):
                waiting = self.store.wait_for(pending, AWAITING_FUNDS, self.clock())
                facts = key_facts("key", waiting)
                self._admin_audit.request(AuditAction.KEY_FUND, actor, **facts)
                result = build_result(AWAITING_FUNDS, waiting, active, holdings)
                still = (_STILL_ACTIVE,) if options.compromised else ()
                return replace(result, warnings=(*result.warnings, *still))
            activated = self._activate(pending, active, actor, options, use)
        except KeyRotatedError as e:
            self._reject(pending, e.code)
            # Not retryable: a retry would replace another key than the one seen.
            raise ConflictError(_OVERTAKEN) from None
        except StaleStateError:
            raise RotationInProgressError(
                "another process has taken over this rotation; try again"
            ) from None
        result = build_result("rotated", activated, active, holdings)
        if not options.compromised:
            return result
        stranded = () if active is None else self._revocation.stranded(active.address)
        unfunded = () if _is_funded(holdings) else (_UNFUNDED,)
        return replace(
            result,
            stranded=stranded,
            warnings=(*result.warnings, *unfunded, *unpaid),
        )

    def _check_operator(self, address: str, options: RotationOptions) -> Sequence[str]:
        """
        Return why the key of *address* cannot pay from each vault yet.

        Only an emergency goes on: the compromised key must not stay active because of
        another network.

        Raises:
            VaultOperatorMissingError, ChainUnavailableError: The rotation can wait.
        """
        try:
            self.require_operator(address)
        except (ConflictError, ChainUnavailableError) as e:
            if not options.without_funds:
                raise
            return (f"{e}; until then refunds wait",)
        return ()

    def _activate(
        self,
        pending: Key,
        active: Key | None,
        actor: Actor,
        options: RotationOptions,
        use: ApprovalUse | None,
    ) -> Key:
        record = self._audit.result(
            AuditAction.KEY_ROTATE,
            _OPERATION,
            actor,
            **key_facts("key", pending),
            **key_facts("previous_key", active),
            compromised=options.compromised,
        )
        activated = self.store.activate(
            pending,
            self.clock(),
            record,
            replacing=active,
            block=options.compromised,
            use=use,
        )
        self._audit.log(record)
        return activated

    def _reject(self, pending: Key, reason: str) -> None:
        # The caller must see the first error.  A row that stays pending is released
        # when its hold expires.
        with suppress(StoreError):
            self.store.reject(pending, reason, self.clock())

    def _must_wait(
        self, holdings: Sequence[AddressBalance], options: RotationOptions
    ) -> bool:
        needed = options.compromised or self.needs_funds
        return needed and not options.without_funds and not _is_funded(holdings)


def _is_funded(holdings: Sequence[AddressBalance]) -> bool:
    return all(balance.is_funded for balance in holdings)


class KeyRetirement:
    """Retires keys; several processes may do so concurrently."""

    def __init__(self, store: KeyStore, audit: AuditLog, clock: Clock) -> None:
        self._store = store
        self._audit = audit
        self._clock = clock
        self._log = structlog.get_logger("keys")

    def retire(self, settled: Sequence[str]) -> None:
        """
        Retire draining keys with no open refund and an address in *settled*.

        On *settled* addresses, the ledger knows all that the chains know: if it was
        restored from a backup, it may have forgotten open refunds.  A
        ``HotWalletError`` is logged, not raised: the worker tries again later.
        """
        try:
            retired = self._store.retire(settled, self._clock(), self._draft_record)
            for key, record in retired:
                self._audit.log(record)
                self._log.info("key-retired", address=key.address)
        except HotWalletError as e:
            self._log.warning("key-retirement-failed", code=e.code)

    def _draft_record(self, key: Key) -> Record:
        return self._audit.result(
            AuditAction.KEY_RETIRE,
            Operation.KEY_ROTATION,
            WORKER,
            key_id=key_prefix(key.key_id),
            address=key.address,
            epoch=key.epoch,
        )
