"""
The one place that names audit events and their fields.

An auditor must be able to ask: who had what signed, with which key, why, and
what came of it?  Nobody must be able to read a secret from the answer: events
hold no signature bytes, PINs, tokens, vendor messages, or whole key ids.
"""

import os
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from signer.ports import Clock, utc_now
from signer.redact import key_prefix


class Operation(StrEnum):
    """What a signature is made for."""

    TRANSACTION_SIGNING = "transaction-signing"
    MESSAGE_SIGNING = "message-signing"
    SELF_TEST = "self-test"


class Logger(Protocol):
    """The part of a structlog logger that events are written with."""

    def info(self, event: str, **fields: Any) -> object:
        """Write one event."""


@dataclass(frozen=True, slots=True)
class Purpose:
    """
    Why a signature is wanted, and on whose behalf.

    ``actor`` is the authenticated subject, or the name of the process that acts
    of its own accord, such as ``worker``.
    """

    operation: Operation
    network: str | None = None
    actor: str | None = None
    request_id: str | None = None
    refund_id: str | None = None


@dataclass(frozen=True, slots=True)
class Subject:
    """The key that an event is about."""

    backend: str
    key_id: str
    address: str


class AuditLog:
    """
    Writes one event when a signature is asked for and one with its outcome.

    Writing must not fail silently: what *logger* raises goes to the caller, so
    that no signature is made without its record.
    """

    def __init__(
        self, logger: Logger, clock: Clock = utc_now, node: str = os.uname().nodename
    ) -> None:
        self._logger = logger
        self._clock = clock
        self._node = node

    def intent(self, purpose: Purpose, subject: Subject, digest: bytes) -> None:
        """Record that the device is about to be asked."""
        self._write("signing-intent", purpose, subject, digest=digest.hex())

    def outcome(
        self,
        purpose: Purpose,
        subject: Subject,
        *,
        digest: bytes,
        outcome: str,
        seconds: float,
        device_request_id: str | None = None,
    ) -> None:
        """
        Record what came of it: *outcome* is ``success`` or an error's code.

        *seconds* is how long the device and the checks took together.
        """
        self._write(
            "signing",
            purpose,
            subject,
            digest=digest.hex(),
            outcome=outcome,
            duration_ms=round(seconds * 1000, 3),
            device_request_id=device_request_id,
        )

    def _write(
        self, event: str, purpose: Purpose, subject: Subject, **fields: Any
    ) -> None:
        self._logger.info(
            event,
            timestamp=self._clock().isoformat(timespec="microseconds"),
            operation=str(purpose.operation),
            network=purpose.network,
            backend=subject.backend,
            key_id=key_prefix(subject.key_id),
            address=subject.address,
            actor=purpose.actor,
            request_id=purpose.request_id,
            refund_id=purpose.refund_id,
            node=self._node,
            pid=os.getpid(),
            **fields,
        )
