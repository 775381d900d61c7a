"""What befalls the things that a service stands on: how it is, and how it is met."""

import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from dev import kms_faults as faults
from dev.kms_emulator import KMSEmulator
from dev.kms_wire import Exchange, Fault, Reply
from tests.e2e.gossip import Gossip, Mood, Role
from tests.e2e.victim import Victim
from tests.support.canaries import ALL


@dataclass
class Trouble:
    """
    One thing that goes wrong inside of the ``with`` block of ``during()``.

    It was reached once the service told ``code`` in its log or an answer, and whatever
    was asked in vain, if it can count, counted: ``met`` is above zero.
    """

    name: str
    code: str
    during: Callable[["Trouble"], AbstractContextManager[None]]
    met: int | None = field(default=None)

    def count(self) -> None:
        """Take note that somebody met it."""
        self.met = (self.met or 0) + 1


def gossip_trouble(gossip: Gossip, role: Role, mood: Mood, code: str) -> Trouble:
    """Let *role* be in a bad *mood*."""

    @contextmanager
    def during(trouble: Trouble) -> Iterator[None]:
        trouble.met = 0
        before = gossip.met[role, mood]
        gossip.moods[role] = mood
        try:
            yield
        finally:
            gossip.moods[role] = Mood.WELL
        trouble.met = gossip.met[role, mood] - before

    return Trouble(f"{role}: {mood}", code, during)


def node_troubles(gossip: Gossip) -> Iterator[Trouble]:
    """Yield every bad mood of a node."""
    for mood in Mood:
        if mood is not Mood.WELL:
            code = "execution-reverted" if mood is Mood.REVERT else "chain-unavailable"
            yield gossip_trouble(gossip, Role.NODE, mood, code)


def kms_trouble(kms: KMSEmulator, name: str, fault: Fault, code: str) -> Trouble:
    """Let every question to KMS that matters meet *fault*."""

    @contextmanager
    def during(trouble: Trouble) -> Iterator[None]:
        def counted(exchange: Exchange) -> Reply | None:
            trouble.count()
            return fault(exchange)

        trouble.met = 0
        for operation in ("Sign", "GetPublicKey", "DescribeKey"):
            kms.faults.always(operation, counted)
        try:
            yield
        finally:
            kms.faults.clear()

    return Trouble(f"KMS: {name}", code, during)


def issuer_trouble(gossip: Gossip, victim: Victim, mood: Mood) -> Trouble:
    """Have another gunicorn worker started, which asks an issuer in a bad *mood*."""
    inner = gossip_trouble(gossip, Role.ISSUER, mood, "worker-not-started")

    @contextmanager
    def during(trouble: Trouble) -> Iterator[None]:
        with inner.during(trouble):
            victim.processes["serve"].send_signal(signal.SIGTTIN)
            yield
        victim.processes["serve"].send_signal(signal.SIGTTOU)

    return Trouble(inner.name, inner.code, during)


def kms_troubles(kms: KMSEmulator) -> Iterator[Trouble]:
    """Yield what befalls KMS, which says all that it knows."""
    unavailable, denied = "backend-unavailable", "backend-access-denied"
    for name, fault, code in (
        ("denied", faults.refuse("AccessDeniedException", ALL), denied),
        ("expired", faults.refuse("ExpiredTokenException", ALL), denied),
        ("disabled", faults.refuse("DisabledException", ALL, 409), "key-unusable"),
        ("not found", faults.refuse("NotFoundException", ALL), "key-not-found"),
        ("internal", faults.refuse("KMSInternalException", ALL, 500), unavailable),
        ("throttled", faults.refuse("SlowDown", ALL, 429), "backend-throttled"),
        ("unheard of", faults.refuse(ALL, ALL), "backend-failed"),
        ("garbage", faults.body(ALL.encode()), unavailable),
        ("a page", faults.html(), unavailable),
        ("hangs up", faults.drop_reply(), unavailable),
        ("hangs", faults.hang(3), unavailable),
        ("another key", faults.other_key(), "signature-recovery"),
        ("no signature", faults.signature(ALL.encode()[:999]), "signature-encoding"),
    ):
        yield kms_trouble(kms, name, fault, code)


@contextmanager
def away(path: Path) -> Iterator[None]:
    """Have *path* moved out of the way."""
    aside = path.with_name(f"{path.name}.aside")
    path.rename(aside)
    try:
        yield
    finally:
        aside.rename(path)
