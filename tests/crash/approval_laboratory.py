"""
Changes that need two administrators, whose processes die at each step.

Only the database is durable, so a process that dies between two of its statements
leaves what it leaves at the later one: it is killed before each statement and before
each commit.
"""

import os
import signal
import sys
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, NoReturn, Protocol
from uuid import uuid4

import bitcurve
from sqlalchemy import event, text

from backends.sql import SQLStore
from signer.alerts import Alerts
from signer.approvals import Approvals
from signer.audit.log import AuditLog
from signer.config.tenants import TenantRegistry
from signer.errors import ApprovalRequiredError, HotWalletError
from signer.keys.admin_audit import AdminAudit
from signer.keys.rotation import RotationOptions
from signer.model.approval import Approval, ApprovalState
from signer.model.audit_record import Actor, Operation
from signer.model.hold import EVERYTHING, Hold
from signer.model.key import KeyState, find_key
from signer.model.wallet import Pause
from signer.refunds.hold_admin import Holds
from signer.refunds.nonce_admin import NonceAdmin
from tests.support.devices import honest
from tests.support.keys import made_active
from tests.support.ledgers import open_ledger
from tests.support.refunds import FakeClock, World
from tests.support.ring import SILENCE, System


ALICE, BOB = Actor("token:alice"), Actor("token:bob")

_MAX_STEPS = 200

_USES = text(
    "SELECT count(*) FROM audit_records WHERE body LIKE :digest"
    " AND body LIKE '%approval-use-succeeded%'"
)


class Change(Protocol):
    """A change that needs two administrators, and can be made again and again."""

    store: SQLStore
    clock: FakeClock

    def prepare(self) -> None:
        """Make the change possible and necessary."""

    def request(self, approvals: Approvals) -> object:
        """Request it, as a new process does."""

    def is_made(self) -> bool:
        """Return whether it is made."""


class EndOfStop:
    """``hotwallet resume``."""

    def __init__(self, store: SQLStore) -> None:
        self.store, self.clock = store, FakeClock()

    def prepare(self) -> None:
        stop = Hold.of_chain(EVERYTHING, self.clock(), "odd refunds", "worker")
        assert self.store.begin_hold(stop)

    def request(self, approvals: Approvals) -> object:
        audit = _admin_audit(self.store, approvals)
        return _holds(self.store, audit, self.clock).resume(
            None, ALICE.because("explained")
        )

    def is_made(self) -> bool:
        """Whether nothing is stopped."""
        return self.store.find_stop(EVERYTHING) is None


def _holds(store: SQLStore, audit: AdminAudit, clock: FakeClock) -> Holds:
    return Holds(store, dict, TenantRegistry, audit, alerts=Alerts(), clock=clock)


class EndOfBlock:
    """``hotwallet tenants unblock``."""

    def __init__(self, store: SQLStore) -> None:
        self.store, self.clock = store, FakeClock()

    def prepare(self) -> None:
        block = Hold.of_tenant("gateway", self.clock(), "", "cli:tests")
        assert self.store.begin_hold(block)

    def request(self, approvals: Approvals) -> object:
        audit = _admin_audit(self.store, approvals)
        return _holds(self.store, audit, self.clock).unblock("gateway", ALICE)

    def is_made(self) -> bool:
        return self.store.find_block("gateway") is None


class Revoked:
    """``hotwallet keys revoke``."""

    def __init__(self, store: SQLStore) -> None:
        self.store = store
        self._system = System(store)
        self.clock = self._system.clock
        self._address = self._system.old.address

    def prepare(self) -> None:
        """Rotate to a new key: the one before can be revoked."""
        active = self.store.active_key()
        assert active is not None
        self._address = active.address
        made_active(self.store, self._system.key(_new_key(self._system)))

    def request(self, approvals: Approvals) -> object:
        revocation = self._system.revocation(approvals=approvals)
        return revocation.revoke(self._address, ALICE)

    def is_made(self) -> bool:
        return _is_revoked(self.store, self._address)


class Compromised:
    """``hotwallet keys rotate --compromised``."""

    def __init__(self, store: SQLStore) -> None:
        self.store = store
        self._system = System(store)
        self.clock = self._system.clock
        self._address = self._name = ""

    def prepare(self) -> None:
        """Make a key to rotate to."""
        active = self.store.active_key()
        assert active is not None
        self._address, self._name = active.address, _new_key(self._system)

    def request(self, approvals: Approvals) -> object:
        """Rotate to it, and revoke the active key."""
        options = RotationOptions(
            compromised=True, active_address=self._address, without_funds=True
        )
        rotation = self._system.rotation(approvals=approvals)
        return rotation.rotate(self._name, ALICE, options)

    def is_made(self) -> bool:
        """Whether the key from before is revoked."""
        return _is_revoked(self.store, self._address)


@dataclass
class Repaired:
    """``hotwallet nonce repair``, with a foreign transaction."""

    store: SQLStore
    clock: FakeClock = field(default_factory=FakeClock)
    world: World = field(init=False)

    def __post_init__(self) -> None:
        """Pay a refund, so that there is a wallet."""
        self.world = World(self.store, clock=self.clock)
        self.world.paid()

    def prepare(self) -> None:
        """Use the key elsewhere, and record that."""
        self.world.chain.mine_foreign(self.world.signer.address)
        self.world.chain.mine_empty(3)
        assert self.world.reconcile().foreign

    def request(self, approvals: Approvals) -> object:
        """Accept the foreign transaction, and resume the wallet."""
        (done,) = self._admin(approvals).repair("local", ALICE)
        return done

    def is_made(self) -> bool:
        """Whether the wallet is not paused."""
        return not self.world.wallet.is_paused

    def _admin(self, approvals: Approvals) -> NonceAdmin:
        audit = _admin_audit(self.store, approvals)
        return NonceAdmin(self.store, self.world.chains, audit, self.clock)


class Abandoned(Repaired):
    """``hotwallet nonce abandon``, of a revoked key."""

    def __post_init__(self) -> None:
        """Pay a refund, and revoke the key."""
        super().__post_init__()
        self.world.rotate(block=True)

    def prepare(self) -> None:
        """Pause the wallet, as a revocation does."""
        if not self.world.wallet.is_paused:
            wallet = self.world.wallet
            self.store.pause(wallet, Pause.CHAIN_AHEAD, self.clock())

    def request(self, approvals: Approvals) -> object:
        """Resume it without waiting for pending transactions."""
        address = self.world.signer.address
        return self._admin(approvals).abandon(address, "local", ALICE)


CHANGES: Mapping[str, Callable[[SQLStore], Change]] = {
    "resume": EndOfStop,
    "unblock": EndOfBlock,
    "revoke": Revoked,
    "compromised": Compromised,
    "repair": Repaired,
    "abandon": Abandoned,
}

DECISIONS = ("ask", "approve", "reject")


@dataclass(frozen=True, slots=True)
class Report:
    """How often a process died, how often the change was made, and what was wrong."""

    deaths: int
    made: int
    violations: list[str]


def kill_at_each_step(name: str, step: str, url: str, line: Connection) -> None:
    """
    Send the report of a change *name*, killed at each point of *step*.

    *step* is "ask", "approve", "reject" or "execute".  Runs in a process without
    threads, which can fork.
    """
    with closing(open_ledger(url)) as store:
        laboratory = _Laboratory(CHANGES[name](store))
        line.send(laboratory.kill(step))


# What is left to do after a step had its effect, until the change is made.
_LEFT = {
    "ask": ("approve", "execute"),
    "approve": ("execute",),
    "reject": ("execute", "approve", "execute"),  # The first one asks again.
    "execute": (),
}

_BEFORE = {"ask": (), "approve": ("ask",), "reject": ("ask",)}

_EFFECTS = {
    "ask": ApprovalState.WAITING,
    "approve": ApprovalState.APPROVED,
    "reject": ApprovalState.REJECTED,
    "execute": ApprovalState.DONE,
}


class _Laboratory:
    def __init__(self, change: Change) -> None:
        self._change = change
        self._store = change.store
        self._known: set[str] = set()
        self._found: Approval | None = None  # The proposal of this round.

    def kill(self, step: str) -> Report:
        """Kill a process at the first point of *step*, at the next, and so on."""
        is_prepared, made, violations = False, 0, list[str]()
        for point in range(1, _MAX_STEPS):
            if not is_prepared:
                self._change.prepare()
                self._found = None
                for each in _BEFORE.get(step, ("ask", "approve")):
                    self._take(each)
            before = self._state
            has_died = self._take(step, point)
            problems = [*self._check({before, _EFFECTS[step]})]
            if self._state is _EFFECTS[step]:
                problems += self._finish(step)
            violations += [f"{step}, {point}: {each}" for each in problems]
            is_made = self._change.is_made()
            made, is_prepared = made + is_made, not is_made
            if not has_died:
                return Report(point - 1, made, violations)
        raise AssertionError("it never ends")

    @property
    def _state(self) -> ApprovalState | None:
        return None if self._found is None else self._found.state

    @property
    def _approvals(self) -> Approvals:
        audit = AuditLog(SILENCE, journal=self._store)
        clock = self._change.clock
        return Approvals(self._store, audit, Alerts(), clock, required=True)

    def _take(self, step: str, point: int | None = None) -> bool:
        """Take *step*, and die at *point* of it if there is one; return whether."""
        digest = "" if self._found is None else self._found.digest
        steps: Mapping[str, Callable[[], object]] = {
            "approve": lambda: self._approvals.approve(digest, BOB.because("checked")),
            "reject": lambda: self._approvals.reject(digest, BOB.because("checked")),
        }
        work = steps.get(step, lambda: self._change.request(self._approvals))
        # What a dead process held is free again.
        self._change.clock.advance(seconds=60)
        has_died = point is not None and _fork(self._store, work, point)
        if point is None:  # It need not be a process that can die.
            with suppress(ApprovalRequiredError):
                work()
        self._look()
        return has_died

    def _look(self) -> None:
        """Read the proposal of this round again, or find it."""
        if self._found is not None:
            self._found = self._store.find_approval(self._found.digest)
            return
        for each in self._approvals.list().approvals:
            if each.digest not in self._known:
                self._known.add(each.digest)
                self._found = each

    def _check(self, expected: Collection[ApprovalState | None]) -> Iterator[str]:
        """Yield what is wrong after a death."""
        is_done = self._state is ApprovalState.DONE
        if self._state not in expected:
            yield f"the approval is {self._state}"
        if self._change.is_made() != is_done:
            yield f"the approval is {self._state}, made: {self._change.is_made()}"
        if self._count_uses() != is_done:
            yield f"the audit has {self._count_uses()} uses"

    def _finish(self, step: str) -> Iterator[str]:
        """Make the change by what is left to do, and yield what is wrong."""
        for number, each in enumerate(_LEFT[step], start=1):
            self._take(each)
            if self._change.is_made() != (number == len(_LEFT[step])):
                yield f"after {each}, made: {self._change.is_made()}"
        yield from self._check({ApprovalState.DONE})

    def _count_uses(self) -> int:
        if self._found is None:
            return 0
        rows = self._store._database.rows(_USES, digest=f"%{self._found.digest}%")
        return int(rows[0][0])


def _admin_audit(store: SQLStore, approvals: Approvals) -> AdminAudit:
    audit = AuditLog(SILENCE, journal=store)
    return AdminAudit(audit, Operation.ADMINISTRATION, approvals=approvals)


def _is_revoked(store: SQLStore, address: str) -> bool:
    key = find_key(store.keys(), address)
    return key is not None and key.state is KeyState.BLOCKED


def _new_key(system: System) -> str:
    """Add a new key to the directory, and return its name."""
    name = str(uuid4())
    system.directory.devices[name] = honest(bitcurve.PrivateKey())
    return name


def _fork(store: SQLStore, work: Callable[[], object], point: int | None) -> bool:
    """Do *work* in a fork that dies at *point*; return whether it did."""
    pid = os.fork()
    if pid == 0:
        _work(store, work, point)
    status = os.waitpid(pid, 0)[1]
    assert not os.WIFEXITED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def _work(store: SQLStore, work: Callable[[], object], point: int | None) -> NoReturn:
    # The fork opens its own connections.
    if point is not None:
        _arm(store, point)
    try:
        work()
    except HotWalletError as e:
        os._exit(not isinstance(e, ApprovalRequiredError))
    except BaseException:  # noqa: BLE001  A fork must not go on as the test.
        traceback.print_exc(file=sys.stderr)
        os._exit(1)
    os._exit(0)


def _arm(store: SQLStore, point: int) -> None:
    """Kill this process before its statement or commit with the number *point*."""
    points = iter(range(1, point))

    def reach(*_: Any) -> None:
        if next(points, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)

    engine = store._database._process().engine
    for name in ("before_cursor_execute", "commit"):
        event.listen(engine, name, partial(reach))
