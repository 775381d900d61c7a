"""
Is it ready?  What ``/readyz`` answers, and how often the dependencies are asked.

Everything is asked at the same time, and nothing is waited for longer than a few
seconds: a balancer must hear of a device that hangs, not hang with it.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import Event, Lock

import structlog

from api.health.key_check import KeyCheck
from signer.audit.sealing_monitor import SealingMonitor, made_at
from signer.deadline import Deadlines, Pending
from signer.errors import ConfigurationError, HotWalletError, StoreError
from signer.model.key import Key
from signer.ports import Clock, utc_now


CACHE_SECONDS = 3.0
ANSWER_SECONDS = 3.5
"""How long a round waits for the dependencies, all at once."""

PATIENCE_SECONDS = 4.0
"""How long anybody waits for a round that somebody else began."""

LATE = "timeout"

Check = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Readiness:
    """
    Whether requests may be sent here.

    ``checks`` maps the name of each dependency to ``ok`` or an error's code.
    ``address`` is the key's that signs as the ring has it, None while nobody knows;
    ``epoch`` counts the rotations: two processes that differ in it for longer than a
    few seconds do not share a ledger.
    """

    checks: Mapping[str, str]
    address: str | None = None
    epoch: int | None = None

    @property
    def ready(self) -> bool:
        """Whether every check passed."""
        return all(answer == "ok" for answer in self.checks.values())


class AuditUnsealedError(StoreError):
    """A record of the audit waits for its seal, for longer than it should."""

    code = "audit-sealing-late"


class AuditUnsignedError(StoreError):
    """Nobody signs for what is sealed, for longer than it should be so."""

    code = "audit-signing-late"


class ReadinessChecker:
    """
    Asks the dependencies whether they work, once in a few seconds at most.

    Whoever comes while they are being asked shares the answer.  Make it after the
    fork: its threads do not survive one.
    """

    def __init__(
        self,
        checks: Mapping[str, Check],
        key: KeyCheck,
        active_key: Callable[[], Key | None],
        *,
        answer_seconds: float = ANSWER_SECONDS,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Ask *checks*, by the names that the answer has them under; each raises, or not.

        *key* is asked as well, and *active_key* only told of.
        """
        self._key = key
        self._probes: Mapping[str, Check] = {
            **checks,
            "key": key,
            "guard": active_key,
        }
        self._answer_seconds = answer_seconds
        self._timer = timer
        self._deadlines = Deadlines()
        self._log = structlog.get_logger("health")
        self._lock = Lock()
        self._until = float("-inf")
        self._round: Event | None = None
        self._last = Readiness(dict.fromkeys(self._probes, LATE))

    def __call__(self) -> Readiness:
        """Return the state of the dependencies, within 4 s; never raises."""
        with self._lock:
            if self._round is None and self._timer() < self._until:
                return self._last
            shared, ours = self._round, Event()
            if shared is None:
                self._round = ours
        if shared is not None:
            shared.wait(PATIENCE_SECONDS)
            return self._last
        try:
            self._last = self._ask()
        finally:
            with self._lock:
                self._until = self._timer() + CACHE_SECONDS
                self._round = None
            ours.set()
        return self._last

    def _ask(self) -> Readiness:
        until = self._timer() + self._answer_seconds
        begun = {
            name: self._deadlines.start(probe, name=name)
            for name, probe in self._probes.items()
        }
        checks = {
            name: self._answer(name, pending, until - self._timer())
            for name, pending in begun.items()
        }
        if checks["key"] == LATE and checks.get("database", "ok") == "ok":
            # With the database down, it is the record that a signature waits for.
            self._key.is_late()
        active = begun["guard"].result() if checks["guard"] == "ok" else None
        # The guard was content, or this process would not be here: what is told of
        # it is the key, and that the database does not tell is said elsewhere.
        checks["guard"] = "ok"
        if not isinstance(active, Key):
            return Readiness(checks)
        return Readiness(checks, active.address, active.epoch)

    def _answer(self, name: str, pending: Pending[object], seconds: float) -> str:
        if not pending.wait(seconds):
            return LATE
        try:
            pending.result()
        except ConfigurationError as e:
            return e.refusals[0].code
        except HotWalletError as e:
            return e.code
        except Exception as e:  # noqa: BLE001  A probe that is wrong must not look well.
            self._log.error("probe-failed", probe=name, exc_info=e)
            return HotWalletError.code
        return "ok"


def sealing(
    oldest_unsealed: Callable[[], str | None],
    onlooker: SealingMonitor,
    *,
    most: float,
    clock: Clock = utc_now,
) -> Callable[[], None]:
    """
    Return the check that the audit's records are sealed as they come.

    *onlooker* calls for help early; the check fails once a record is older than *most*
    seconds, since nothing is lost before (ADR 18).
    """

    def check() -> None:
        oldest = oldest_unsealed()
        onlooker.observe(oldest)
        if unsealed_seconds(oldest, clock) > most:
            raise AuditUnsealedError("the audit's records are not being sealed")

    return check


def unsealed_seconds(record_id: str | None, clock: Clock = utc_now) -> float:
    """Return for how long the record with this id has been waiting; 0 for none."""
    made = None if record_id is None else made_at(record_id)
    return 0.0 if made is None else max(0.0, (clock() - made).total_seconds())
