"""
Checks the dependencies for ``/readyz``.

All checks run at the same time and have a few seconds to answer: a load balancer must
get an answer even if a device hangs.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from threading import Lock

import structlog

from signer.alerts import Alert, Alerts
from signer.audit.sealer import SealingMonitor
from signer.deadline import TIMEOUT_MESSAGE, Deadlines, Pending
from signer.errors import (
    BackendUnavailableError,
    ChainUnavailableError,
    ConfigurationError,
    HotWalletError,
    Refusal,
    SigningStoppedError,
    StoreError,
    TokenStoppedError,
    WalletPausedError,
)
from signer.keys.key_proofs import PROOF_VALID_SECONDS
from signer.keys.signing_alarm import alert_of
from signer.model.audit_record import made_at
from signer.model.hold import Hold
from signer.model.key import WATCHED, Key
from signer.model.wallet import Wallet
from signer.model.worker_row import WorkerRow, find_running, find_stopped
from signer.ports.clock import Clock, utc_now


_SELF_TEST_SECONDS = 1800.0
"""How long after a signature the key counts as healthy, unless one fails: a call of the
device costs money, and a refund tries the key when it matters."""

_RETRY_SECONDS = 5.0  # How long to wait after the key failed its self-test.
_ALERTS_AT_ONCE = 4  # Threads for alerts, since database and webhook may hang.


@dataclass(eq=False, repr=False)
class KeyCheck:
    """
    Raises the error of the last self-test, and an alert when its kind changes.

    Threads share one instance.  It is called at each readiness check, but makes a
    self-test only when one is due.

    *self_test* raises if the key does not sign.  *last_results* returns when a
    signature last succeeded, and when one last failed, by *timer*.
    """

    self_test: Callable[[], object]
    last_results: Callable[[], tuple[float | None, float | None]]
    alerts: Alerts
    timer: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._deadlines = Deadlines(_ALERTS_AT_ONCE)
        self._log = structlog.get_logger("health")
        self._lock = Lock()
        self._passed_at = float("-inf")
        self._tested_at = float("-inf")
        self._error: HotWalletError | None = None
        # The error of the last alert.  A database failure in between does not clear it.
        self._alerted: HotWalletError | None = None

    def __call__(self) -> None:
        """Return if the key signs; else raise the error of the last self-test."""
        try:
            if self._is_due():
                self.self_test()
                with self._lock:
                    self._passed_at = self.timer()
                self._record_success()
        except HotWalletError as e:  # Of the self-test, or the key cannot be opened.
            self._record_failure(e)
        with self._lock:
            error = self._error
        if error is not None:
            raise error

    def report_timeout(self) -> None:
        """Record that the self-test did not end in time."""
        self._record_failure(BackendUnavailableError(TIMEOUT_MESSAGE))

    def _is_due(self) -> bool:
        signed_at, failed_at = self.last_results()
        now = self.timer()
        with self._lock:
            passed_at = max(self._passed_at, signed_at or float("-inf"))
            is_failing = self._error is not None and passed_at <= self._tested_at
            is_in_doubt = is_failing or (failed_at or float("-inf")) > passed_at
            # A database failure is no result about the key: test again at once.
            pause = 0.0 if isinstance(self._error, StoreError) else _RETRY_SECONDS
            due = (
                now - self._tested_at >= pause
                if is_in_doubt
                else now - passed_at >= _SELF_TEST_SECONDS
            )
            if due:
                self._tested_at = now
        if not is_failing:
            self._record_success()
        return due

    def _record_success(self) -> None:
        with self._lock:
            self._error = None
            alerted, self._alerted = self._alerted, None
        if alerted is not None:
            self._log.info("key-recovered", code=alerted.code)
            end = partial(self.alerts.resolve, Alert.KEY_UNHEALTHY)
            self._deadlines.start(end, name="alert")

    def _record_failure(self, error: HotWalletError) -> None:
        # The database failed before the device was used: no alert about the key.
        alert = None if isinstance(error, StoreError) else alert_of(error)
        with self._lock:
            self._error = error
            if alert is None:
                return
            last, self._alerted = self._alerted, error
            if last is not None and alert_of(last) is alert:
                return
        sound = partial(self.alerts.sound, alert, code=error.code)
        # In a thread of its own: the alert is counted in the database, which may hang.
        self._deadlines.start(sound, name="alert")


CACHE_SECONDS = 3.0
ANSWER_SECONDS = 3.5  # How long a round of checks waits for the dependencies.
SHARED_SECONDS = 4.0  # How long a caller waits for a round that another caller began.

LOOK_VALID_SECONDS = 120.0
"""How old a worker's last look at a network may be: four periods."""

LATE = "timeout"

Check = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Readiness:
    """
    Whether requests may be sent here.

    ``checks`` maps the name of each dependency to ``ok`` or an error's code.  While
    signing or a worker is stopped, or a wallet is paused, a process is ready: it
    accepts refunds, which wait.
    It is ready, too, while changed rules are not in force: those from before are.
    Unless ``needs_key``, it is ready while the key does not sign: administrators can
    do everything else.
    ``address`` is the active key's, None if unknown.  ``epoch`` counts the rotations:
    if two processes differ in it for more than a few seconds, they do not share a
    ledger.
    """

    checks: Mapping[str, str]
    address: str | None = None
    epoch: int | None = None
    needs_key: bool = True

    @property
    def ready(self) -> bool:
        """Whether every check passed, except for those that stop no request."""
        return all(
            code == "ok" or code in _DELAYS or (name == "key" and not self.needs_key)
            for name, code in self.checks.items()
        )

    @property
    def degraded(self) -> bool:
        """Whether a check failed; that of a process that is ready stops no request."""
        return set(self.checks.values()) != {"ok"}


class AuditUnsealedError(StoreError, code="audit-sealing-late"):
    """The oldest unsealed audit record is older than allowed."""


class KeyNotProvedError(HotWalletError, code="key-not-proved"):
    """No worker has shown lately that the active key signs."""


class PolicyNotReloadedError(HotWalletError, code="policy-not-reloaded"):
    """The rules in the files are not those in force: invalid, or not approved."""


class WorkerStoppedError(HotWalletError, code="worker-stopped"):
    """A worker has completed no pass for a while, or none runs."""


class WalletDelegatedError(HotWalletError, code="wallet-delegated"):
    """The active key's address has code of others (EIP-7702), which can move funds."""


class AuditUnsignedError(StoreError, code="audit-signing-late"):
    """The sealed audit records have had no checkpoint for longer than allowed."""


_DELAYS = frozenset(
    {
        SigningStoppedError.code,
        TokenStoppedError.code,
        WalletPausedError.code,
        WorkerStoppedError.code,
        PolicyNotReloadedError.code,
    }
)
"""With these a process still accepts refunds (ADR 42, ADR 77)."""


@dataclass(frozen=True, slots=True)
class NetworkLook:
    """
    What a worker saw of a network, and when, by the ledger's clock.

    ``problem`` is the code of the error for which it cannot use the network, if any.
    """

    at: datetime
    problem: str | None = None
    is_delegated: bool = False


class ReadinessChecker:
    """
    Checks the dependencies, at most once in a few seconds.

    Callers that arrive during a round share its answer.  Create it after the fork,
    since its threads do not survive one.
    """

    def __init__(
        self,
        checks: Mapping[str, Check],
        key: KeyCheck | None,
        active_key: Callable[[], Key | None],
        *,
        needs_key: bool = True,
        answer_seconds: float = ANSWER_SECONDS,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Run *checks*, by name, and *key* if there is one; a check fails if it raises.

        *active_key* is for information: it adds the address and epoch to the answer.
        Without *needs_key*, a key that does not sign leaves the process ready.
        """
        self._key = key
        self._needs_key = needs_key
        of_key = {} if key is None else {"key": key}
        self._checks: Mapping[str, Check] = {**checks, **of_key, "guard": active_key}
        self._answer_seconds = answer_seconds
        self._timer = timer
        self._deadlines = Deadlines()
        self._log = structlog.get_logger("health")
        self._round = Lock()  # Held during a round.
        self._until = float("-inf")
        self._last = Readiness(dict.fromkeys(self._checks, LATE))

    def __call__(self) -> Readiness:
        """Return the state of the dependencies, within 4 s; never raises."""
        if self._round.acquire(timeout=SHARED_SECONDS):
            try:
                if self._timer() >= self._until:
                    try:
                        self._last = self._run_checks()
                    finally:
                        self._until = self._timer() + CACHE_SECONDS
            finally:
                self._round.release()
        return self._last

    def _run_checks(self) -> Readiness:
        until = self._timer() + self._answer_seconds
        started = {
            name: self._deadlines.start(check, name=name)
            for name, check in self._checks.items()
        }
        checks = {
            name: self._answer(name, pending, until - self._timer())
            for name, pending in started.items()
        }
        is_late = checks.get("key") == LATE and started["key"].is_started
        if self._key and is_late and checks.get("database", "ok") == "ok":
            # With the database down, the self-test waits for its audit record, also in
            # the rounds after that, until it ends.
            self._key.report_timeout()
        active = started["guard"].result() if checks["guard"] == "ok" else None
        # The guard passed, or this process would not run.  If the active key could not
        # be read, the check of the database says so.
        checks["guard"] = "ok"
        if not isinstance(active, Key):
            return Readiness(checks, needs_key=self._needs_key)
        return Readiness(
            checks, active.address, active.epoch, needs_key=self._needs_key
        )

    def _answer(self, name: str, pending: Pending[object], seconds: float) -> str:
        if not pending.wait(seconds):
            return LATE
        try:
            pending.result()
        except ConfigurationError as e:
            return e.refusals[0].code
        except HotWalletError as e:
            return e.code
        except Exception as e:  # noqa: BLE001  A bug in a check must not look healthy.
            self._log.error("probe-failed", probe=name, exc_info=e)
            return HotWalletError.code
        return "ok"


def sealing_check(
    oldest_unsealed: Callable[[], str | None],
    monitor: SealingMonitor,
    *,
    max_seconds: float,
    clock: Clock = utc_now,
) -> Callable[[], None]:
    """
    Return a check that fails if an audit record stays unsealed for *max_seconds*.

    *monitor* raises an alert earlier: nothing is lost until then (ADR 15).
    """

    def check() -> None:
        oldest = oldest_unsealed()
        monitor.observe(oldest)
        if unsealed_seconds(oldest, clock) > max_seconds:
            raise AuditUnsealedError("the audit records are not being sealed")

    return check


def worker_check(
    workers: Callable[[], Sequence[WorkerRow]],
    active_key: Callable[[], Key | None] | None,
    clock: Clock,
) -> Callable[[], None]:
    """
    Return a check of the *workers*, and of their proof of *active_key*, if it is given.

    It fails with ``worker-stopped`` if a worker stopped or none runs, and with
    ``key-not-proved`` if no worker ever proved the key, or running ones no longer do.
    """

    def check() -> None:
        key = None if active_key is None else active_key()
        proved_at = None if key is None else key.proved_at
        if active_key is not None and proved_at is None:
            raise KeyNotProvedError("no worker proves that the active key signs")
        found, now = workers(), clock()
        if not find_running(found, now):
            raise WorkerStoppedError("no worker runs")
        if proved_at is not None and (
            (now - proved_at).total_seconds() > PROOF_VALID_SECONDS
        ):
            raise KeyNotProvedError("no worker proves that the active key signs")
        if find_stopped(found, now):
            raise WorkerStoppedError("a worker has stopped")

    return check


def network_check(
    name: str,
    workers: Callable[[], Sequence[WorkerRow]],
    read: Callable[[Sequence[WorkerRow]], Mapping[str, NetworkLook]],
    clock: Clock,
    *,
    timer: Callable[[], float] = time.monotonic,
) -> Callable[[], None]:
    """
    Return a check of what running *workers*, whose rows *read* reads, saw of a network.

    It asks no node.  It fails with the code that a worker has recorded, or with
    ``chain-unavailable`` if none has looked for ``LOOK_VALID_SECONDS``; a process that
    starts has looked itself.  Without a worker it fails with ``worker-stopped``.
    """
    started_at = timer()

    def check() -> None:
        now = clock()
        running = find_running(workers(), now)
        look = read(running).get(name)
        if look is not None and look.problem is not None:
            raise ConfigurationError(
                Refusal(look.problem, f"a worker cannot use {name}")
            )
        age = timer() - started_at
        if look is not None:
            age = min(age, (now - look.at).total_seconds())
        if age <= LOOK_VALID_SECONDS:
            return
        if not running:
            raise WorkerStoppedError(f"no worker looks at {name}")
        raise ChainUnavailableError(f"no worker has looked at {name} lately")

    return check


def wallet_check(
    chain_id: int,
    wallets: Callable[[], Iterable[Wallet]],
    keys: Callable[[], Iterable[Key]],
    is_delegated: Callable[[], bool],
) -> Callable[[], None]:
    """
    Return a check of the *wallets* of *keys* in use on the chain *chain_id*.

    It fails with ``wallet-delegated`` if *is_delegated*: only a delegation (EIP-7702)
    gives code to the address of a key.  It fails with ``wallet-paused`` if one is
    paused: new refunds wait.
    """

    def check() -> None:
        if is_delegated():
            raise WalletDelegatedError("the address of the active key has code")
        used = {key.address for key in keys() if key.state in WATCHED}
        for wallet in wallets():
            is_used = wallet.chain_id == chain_id and wallet.sender in used
            if is_used and wallet.is_paused:
                # Also a row that is not authentic: its wallet assigns no nonces.
                raise WalletPausedError(str(wallet.error()))

    return check


def signing_check(stops: Callable[[], Iterable[Hold]]) -> Callable[[], None]:
    """Return a check that fails if a stop is in force, with the code of the widest."""

    def check() -> None:
        for stop in stops():
            # Also a row that is not authentic stops signatures only.
            kind = TokenStoppedError if stop.token else SigningStoppedError
            raise kind(str(stop.error()))

    return check


def policy_check(problem: Callable[[], str | None]) -> Callable[[], None]:
    """Return a check that fails with ``policy-not-reloaded`` if *problem* finds one."""

    def check() -> None:
        found = problem()
        if found is not None:
            raise PolicyNotReloadedError(found)

    return check


def unsealed_seconds(record_id: str | None, clock: Clock = utc_now) -> float:
    """Return the age in seconds of the record with this id; 0 for None."""
    made = None if record_id is None else made_at(record_id)
    return 0.0 if made is None else max(0.0, (clock() - made).total_seconds())
