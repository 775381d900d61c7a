"""
Failures of KMS and of the connection to it, for tests.

A fault responds to one request instead of the emulator::

    emulator.faults.on("Sign", throttle(), times=2)
    emulator.faults.on("Sign", drop_reply())

Later requests are served normally.  Errors have the codes, HTTP statuses and kinds of
messages that AWS uses; the messages must never reach our logs.
"""

from cryptography.hazmat.primitives.asymmetric import ec

from dev.kms_signing import KMSError, Signing, as_given
from dev.kms_wire import Exchange, Fault, Reply, error_reply


_ENDLESS = 3600.0


def refuse(code: str, message: str = "no", status: int = 400) -> Fault:
    """Respond with an error of KMS."""
    return lambda _: error_reply(KMSError(code, message, status))


def throttle() -> Fault:
    """The account has exceeded its request quota."""
    return refuse(
        "ThrottlingException",
        "You have exceeded the rate at which you may call KMS. Reduce the frequency"
        " of your calls.",
    )


def retry_after(milliseconds: int) -> Fault:
    """The service is overloaded and asks for a pause before the next attempt."""
    headers = {"x-amz-retry-after": str(milliseconds)}
    body = b'{"__type":"ThrottlingException","message":"Rate exceeded"}'
    return lambda _: Reply(body, headers=headers, status=400)


def kms_internal() -> Fault:
    """KMS failed."""
    return refuse("KMSInternalException", "kms-frontend-7 failed", 500)


def dependency_timeout() -> Fault:
    """A dependency of KMS was too slow."""
    return refuse("DependencyTimeoutException", "hsm-fleet-3 timed out", 503)


def key_unavailable() -> Fault:
    """The key cannot be used at the moment."""
    return refuse("KeyUnavailableException", "hsm-fleet-3 has no key", 500)


def disabled() -> Fault:
    """The key is disabled."""
    return _about_key("DisabledException", "{key} is disabled.", 409)


def pending_deletion() -> Fault:
    """The key is scheduled for deletion."""
    return _about_key("KMSInvalidStateException", "{key} is pending deletion.", 409)


def not_found() -> Fault:
    """There is no such key."""
    return _about_key("NotFoundException", "Key '{key}' does not exist", 400)


def invalid_key_usage() -> Fault:
    """The key has another usage."""
    return _about_key("InvalidKeyUsageException", "{key} is ENCRYPT_DECRYPT.", 400)


def access_denied() -> Fault:
    """The policy denies it; the message has the caller, action and resource."""
    return _about_key(
        "AccessDeniedException",
        "User: arn:aws:sts::123456789012:assumed-role/refund-signer-role/i-0abc123 is"
        " not authorized to perform: kms:Sign on resource: {key} because no"
        " identity-based policy allows the kms:Sign action",
        400,
    )


def expired_token() -> Fault:
    """The session credentials have expired."""
    return refuse("ExpiredTokenException", "The token of refund-signer-role expired")


def unrecognized_client() -> Fault:
    """The access key is not one of AWS's."""
    return refuse("UnrecognizedClientException", "The security token is invalid.")


def _about_key(code: str, message: str, status: int) -> Fault:
    def fault(exchange: Exchange) -> Reply:
        key = exchange.call.parameters.get("KeyId", "")
        return error_reply(KMSError(code, message.format(key=key), status))

    return fault


def only_in(region: str, fault: Fault) -> Fault:
    """Apply *fault* to requests in *region*; other regions work normally."""

    def local(exchange: Exchange) -> Reply | None:
        if exchange.call.region == region:
            return fault(exchange)
        return exchange.respond(None)

    return local


def sign_by(signing: Signing) -> Fault:
    """Check the request as KMS does, and sign with *signing*."""
    return lambda exchange: exchange.respond(signing)


def other_key() -> Fault:
    """Sign with another key than the requested one."""
    other = ec.generate_private_key(ec.SECP256K1())
    return sign_by(lambda _, digest: as_given(other, digest))


def signature(der: bytes) -> Fault:
    """Respond to Sign with *der*, valid or not."""
    return sign_by(lambda _key, _digest: der)


def slow(seconds: float) -> Fault:
    """Respond correctly after a delay."""

    def fault(exchange: Exchange) -> Reply | None:
        exchange.released.wait(seconds)
        return exchange.respond(None)

    return fault


def hang(seconds: float = _ENDLESS) -> Fault:
    """Read the request and never respond."""

    def fault(exchange: Exchange) -> None:
        exchange.released.wait(seconds)

    return fault


def drop_reply() -> Fault:
    """Execute the request, but close the connection without a response."""

    def fault(exchange: Exchange) -> None:
        exchange.respond(None)

    return fault


def stop_after_headers(seconds: float = _ENDLESS) -> Fault:
    """Send the headers, and never the body."""

    def fault(exchange: Exchange) -> None:
        reply = exchange.respond(None)
        exchange.connection.sendall(reply.head(exchange.call.request_id))
        exchange.released.wait(seconds)

    return fault


def cut_off() -> Fault:
    """Send half of the body, then close the connection."""

    def fault(exchange: Exchange) -> None:
        reply = exchange.respond(None)
        half = reply.body[: len(reply.body) // 2]
        exchange.connection.sendall(reply.head(exchange.call.request_id) + half)

    return fault


def trickle(interval: float) -> Fault:
    """Send a byte every *interval* seconds, from the status line on."""

    def fault(exchange: Exchange) -> None:
        reply = exchange.respond(None)
        for byte in reply.head(exchange.call.request_id) + reply.body:
            exchange.connection.sendall(bytes([byte]))
            if exchange.released.wait(interval):
                return

    return fault


def html(status: int = 500) -> Fault:
    """Respond with an HTML page, like a proxy in front of KMS."""
    page = b"<html><body>Bad gateway kms.eu-central-1.amazonaws.com</body></html>"
    return lambda _: Reply(page, status, content_type="text/html")


def body(text: bytes) -> Fault:
    """Respond with 200 and *text*, valid or not."""
    return lambda _: Reply(text)
