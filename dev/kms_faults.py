"""
What can go wrong between us and KMS, to be asked for by tests.

A fault answers one request in the place of the emulator::

    emulator.faults.on("Sign", throttle(), times=2)
    emulator.faults.on("Sign", drop_reply())

The requests that follow are answered as ever.  Refusals use the codes, the HTTP
statuses and the kind of words that AWS uses, none of which may reach our logs.
"""

import base64
import hashlib
import json

from cryptography.hazmat.primitives.asymmetric import ec

from dev import kms_crafted
from dev.kms_keys import KMSError, Signing, as_given
from dev.kms_wire import Exchange, Fault, Reply, error_reply


_FOR_EVER = 3600.0


def refuse(code: str, message: str = "no", status: int = 400) -> Fault:
    """Answer with an error of KMS."""
    return lambda _: error_reply(KMSError(code, message, status))


def throttle() -> Fault:
    """The rate quota of the account is used up."""
    return refuse(
        "ThrottlingException",
        "You have exceeded the rate at which you may call KMS. Reduce the frequency"
        " of your calls.",
    )


def retry_after(milliseconds: int) -> Fault:
    """The service is overloaded, and names the time of the next attempt."""
    headers = {"x-amz-retry-after": str(milliseconds)}
    body = b'{"__type":"ThrottlingException","message":"Rate exceeded"}'
    return lambda _: Reply(body, headers=headers, status=400)


def kms_internal() -> Fault:
    """KMS failed."""
    return refuse("KMSInternalException", "kms-frontend-7 failed", 500)


def dependency_timeout() -> Fault:
    """Something behind KMS was too slow."""
    return refuse("DependencyTimeoutException", "hsm-fleet-3 timed out", 503)


def key_unavailable() -> Fault:
    """The key cannot be used at the moment."""
    return refuse("KeyUnavailableException", "hsm-fleet-3 has no key", 500)


def disabled() -> Fault:
    """Somebody disabled the key."""
    return _about_key("DisabledException", "{key} is disabled.", 409)


def pending_deletion() -> Fault:
    """Somebody scheduled the key's deletion."""
    return _about_key("KMSInvalidStateException", "{key} is pending deletion.", 409)


def not_found() -> Fault:
    """There is no such key."""
    return _about_key("NotFoundException", "Key '{key}' does not exist", 400)


def invalid_key_usage() -> Fault:
    """The key is for something else."""
    return _about_key("InvalidKeyUsageException", "{key} is ENCRYPT_DECRYPT.", 400)


def access_denied() -> Fault:
    """The policy does not allow it; the message says who, what and where."""
    return _about_key(
        "AccessDeniedException",
        "User: arn:aws:sts::123456789012:assumed-role/refund-signer-role/i-0abc123 is"
        " not authorized to perform: kms:Sign on resource: {key} because no"
        " identity-based policy allows the kms:Sign action",
        400,
    )


def expired_token() -> Fault:
    """The session's credentials are over."""
    return refuse("ExpiredTokenException", "The token of refund-signer-role expired")


def unrecognized_client() -> Fault:
    """The access key is not one of AWS's."""
    return refuse("UnrecognizedClientException", "The security token is invalid.")


def _about_key(code: str, message: str, status: int) -> Fault:
    def fault(exchange: Exchange) -> Reply:
        key = exchange.call.asked.get("KeyId", "")
        return error_reply(KMSError(code, message.format(key=key), status))

    return fault


def only_in(region: str, fault: Fault) -> Fault:
    """Let *fault* meet what is asked in *region*; the other regions answer well."""

    def local(exchange: Exchange) -> Reply | None:
        if exchange.call.region == region:
            return fault(exchange)
        return exchange.answer(None)

    return local


def sign_by(signing: Signing) -> Fault:
    """Check the request as KMS does, and let *signing* make the signature."""
    return lambda exchange: exchange.answer(signing)


def other_key() -> Fault:
    """Sign with a key that nobody asked for."""
    other = ec.generate_private_key(ec.SECP256K1())
    return sign_by(lambda _, digest: as_given(other, digest))


def double_hash() -> Fault:
    """Hash the digest again, as moto does, and as KMS does for RAW."""
    return sign_by(lambda key, digest: as_given(key, hashlib.sha256(digest).digest()))


def high_s() -> Fault:
    """Sign with s in the upper half."""
    return sign_by(kms_crafted.high_s)


def short_r() -> Fault:
    """Sign so that r has 21 bytes."""
    return sign_by(kms_crafted.short_r)


def short_s() -> Fault:
    """Sign so that s has at most 31 bytes."""
    return sign_by(kms_crafted.short_s)


def signature(der: bytes) -> Fault:
    """Answer Sign with *der*, whatever it is."""
    return sign_by(lambda _key, _digest: der)


def public_key(spki: bytes) -> Fault:
    """Answer GetPublicKey with *spki*, whatever it is."""

    def fault(exchange: Exchange) -> Reply:
        answer = json.loads(exchange.answer(None).body)
        answer["PublicKey"] = base64.b64encode(spki).decode()
        return Reply(json.dumps(answer).encode())

    return fault


def slow(seconds: float) -> Fault:
    """Answer well, but late."""

    def fault(exchange: Exchange) -> Reply | None:
        exchange.over.wait(seconds)
        return exchange.answer(None)

    return fault


def hang(seconds: float = _FOR_EVER) -> Fault:
    """Take the request, and never answer."""

    def fault(exchange: Exchange) -> None:
        exchange.over.wait(seconds)

    return fault


def drop_reply() -> Fault:
    """Do as asked, and lose the answer: the connection closes."""

    def fault(exchange: Exchange) -> None:
        exchange.answer(None)

    return fault


def stop_after_headers(seconds: float = _FOR_EVER) -> Fault:
    """Send the header fields, and never the body."""

    def fault(exchange: Exchange) -> None:
        reply = exchange.answer(None)
        exchange.connection.sendall(reply.head(exchange.call.request_id))
        exchange.over.wait(seconds)

    return fault


def cut_off() -> Fault:
    """Send half of the body, and close the connection."""

    def fault(exchange: Exchange) -> None:
        reply = exchange.answer(None)
        half = reply.body[: len(reply.body) // 2]
        exchange.connection.sendall(reply.head(exchange.call.request_id) + half)

    return fault


def trickle(interval: float) -> Fault:
    """Send a byte every *interval* seconds, from the status line on."""

    def fault(exchange: Exchange) -> None:
        reply = exchange.answer(None)
        for byte in reply.head(exchange.call.request_id) + reply.body:
            exchange.connection.sendall(bytes([byte]))
            if exchange.over.wait(interval):
                return

    return fault


def html(status: int = 500) -> Fault:
    """Answer with a page, as a proxy before KMS would."""
    page = b"<html><body>Bad gateway kms.eu-central-1.amazonaws.com</body></html>"
    return lambda _: Reply(page, status, content_type="text/html")


def body(text: bytes) -> Fault:
    """Answer 200 with *text*, whatever it is."""
    return lambda _: Reply(text)
