"""
Failures of Google Cloud KMS, for tests; ``dev/kms_faults.py`` has those of any server.

::

    emulator.faults.on("AsymmetricSign", quota_exceeded(seconds=0.2))

The messages have what Google's have, and must never reach our logs.
"""

import json
from collections.abc import Callable

from dev.google_kms_emulator import error_reply
from dev.google_kms_keys import GoogleError, checksum
from dev.kms_wire import Exchange, Fault, Reply


_ACCOUNT = "refund-signer@example-project.iam.gserviceaccount.com"


def refuse(status: str, message: str = "no") -> Fault:
    """Respond with an error of Google's, by its ``google.rpc.Code``."""
    return lambda _: error_reply(GoogleError(status, message))


def quota_exceeded(seconds: float | None = None) -> Fault:
    """The project has exceeded a quota; with *seconds*, Google asks for a pause."""
    message = (
        "Quota exceeded for quota metric 'HSM asymmetric cryptographic requests' of"
        " service 'cloudkms.googleapis.com' for consumer 'project_number:123456789012'"
    )
    info = {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": "RATE_LIMIT_EXCEEDED",
        "domain": "googleapis.com",
    }
    retry = {
        "@type": "type.googleapis.com/google.rpc.RetryInfo",
        "retryDelay": f"{seconds}s",
    }
    details = [info] if seconds is None else [info, retry]
    return lambda _: error_reply(GoogleError("RESOURCE_EXHAUSTED", message, *details))


def permission_denied() -> Fault:
    """The account may not use the key; the message has both."""

    def fault(exchange: Exchange) -> Reply:
        name = exchange.call.target.rpartition(".")[0]
        message = f"Permission denied on resource '{name}' for {_ACCOUNT}."
        return error_reply(GoogleError("PERMISSION_DENIED", message))

    return fault


def internal() -> Fault:
    """Cloud KMS failed."""
    return refuse("INTERNAL", "Internal error encountered in hsm-pool-7.")


def unavailable() -> Fault:
    """Cloud KMS is unavailable."""
    return refuse("UNAVAILABLE", "The service is currently unavailable.")


def altered(**fields: object) -> Fault:
    """Answer correctly but for *fields*; a field that is None is left out."""

    def change(answer: dict[str, object]) -> None:
        answer.update(fields)
        for name in [name for name, value in fields.items() if value is None]:
            del answer[name]

    return _changed(change)


def pem(text: str) -> Fault:
    """Answer GetPublicKey with the PEM *text* and its correct checksum."""
    return altered(pem=text, pemCrc32c=checksum(text.encode()))


def _changed(change: Callable[[dict[str, object]], None]) -> Fault:
    def fault(exchange: Exchange) -> Reply:
        reply = exchange.respond(None)
        answer = json.loads(reply.body)
        change(answer)
        return Reply(json.dumps(answer).encode(), reply.status, reply.content_type)

    return fault
