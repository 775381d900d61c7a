"""
``make demo``: one refund, from an HTTP request to a confirmed transfer.

Prints each step as it happens, and exits with status 0 only if all steps succeeded.
"""

import os
import secrets
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from dev import stablecoin
from dev.stack import (
    NETWORK,
    SYMBOL,
    Stack,
    default_home,
    request,
    running_stack,
    selected_device,
)


if TYPE_CHECKING:
    from dev.google_kms_emulator import GoogleKMSEmulator


# An unused address: the second account of every local chain.
RECIPIENT = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
AMOUNT = "12.50"
UNITS = 12_500_000

_CONFIRM_SECONDS = 60.0


class DemoError(Exception):
    """A step had an unexpected result."""


class Progress:
    """Prints steps and their details, with the seconds since the start."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ

    def step(self, text: str) -> None:
        """Print one step."""
        stamp = self._dim(f"{time.monotonic() - self._started:5.1f} s")
        print(f"{stamp}  {text}", flush=True)

    def detail(self, name: str, value: object) -> None:
        """Print one detail of the step."""
        print(f"         {self._dim(f'{name:<14}')} {value}", flush=True)

    def _dim(self, text: str) -> str:
        return f"\x1b[2m{text}\x1b[0m" if self._colour else text


class Gateway:
    """The payment gateway: a client that uses only the API."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        # Valid for five minutes, which is longer than the demo.
        token = stack.command("token", "--role", "merchant", "--subject", "gateway")
        self._authorization = {"Authorization": f"Bearer {token}"}

    def refund(self, key: str, **fields: str) -> tuple[int, Mapping[str, str], Any]:
        """Request a refund."""
        return request(
            "POST",
            f"{self._stack.url}/v1/refunds",
            headers={**self._authorization, "Idempotency-Key": key},
            body={
                "network": NETWORK,
                "token": SYMBOL,
                "recipient": RECIPIENT,
                **fields,
            },
        )

    def get_refund(self, refund_id: str) -> Any:
        """Return a refund."""
        status, _, refund = request(
            "GET",
            f"{self._stack.url}/v1/refunds/{refund_id}",
            headers=self._authorization,
        )
        _expect(status == 200, f"GET returned {status}: {refund}")  # noqa: PLR2004
        return refund


def main() -> int:
    """Run the demo; return 0 if it succeeded."""
    for number in (signal.SIGINT, signal.SIGTERM):
        # A shell starts background jobs with SIGINT ignored.
        signal.signal(number, signal.default_int_handler)
    progress = Progress()
    try:
        device = selected_device("pkcs11", "aws-kms", "google-cloud-kms")
        with (
            _google_kms() if device == "google-cloud-kms" else nullcontext() as kms,
            running_stack(
                default_home(),
                use_kms=device == "aws-kms",
                kms=kms,
                settings={
                    "WEB_CONCURRENCY": "1"
                },  # One process starts sooner than two.
                report=lambda text: progress.step(f"{text} ..."),
            ) as stack,
        ):
            _introduce(progress, stack)
            pay_once(progress, stack)
            progress.step("Stopping all processes ...")
    except KeyboardInterrupt:
        print("\nStopped all processes.", file=sys.stderr)
        return 130
    except (DemoError, RuntimeError) as e:
        print(f"\nThe demo failed: {e}", file=sys.stderr)
        return 1
    progress.step("Done: one refund was paid once.")
    return 0


def _google_kms() -> "GoogleKMSEmulator":
    from dev.google_kms_emulator import GoogleKMSEmulator  # noqa: PLC0415

    return GoogleKMSEmulator()


def _introduce(progress: Progress, stack: Stack) -> None:
    progress.step("The stack is up.")
    kinds = {
        "true": "AWS KMS API, local emulator",
        "google-cloud-kms": "Google Cloud KMS API, local emulator",
    }
    device = stack.environ.get("KEY_BACKEND") or stack.environ.get("USE_KMS", "")
    progress.detail("key", kinds.get(device, "SoftHSM, PKCS#11"))
    progress.detail("address", stack.address)
    progress.detail("chain", f"{stack.chain.engine}, {stack.chain_url}")
    progress.detail("stablecoin", f"{SYMBOL} {stack.token}")
    progress.detail("API", stack.url)


def pay_once(progress: Progress, stack: Stack) -> None:
    """
    Pay one refund, and repeat its request.

    Raises:
        DemoError: It was not paid once, or a request had an unexpected answer.
    """
    gateway = Gateway(stack)
    session = f"ps_{secrets.token_hex(6)}"
    before = stablecoin.balance_of(stack.chain_url, stack.token, RECIPIENT)
    refund = _request_refund(progress, gateway, session)
    _await_confirmation(progress, gateway, refund["id"])
    _repeat(progress, gateway, session, refund)
    _exceed_limit(progress, gateway)
    after = stablecoin.balance_of(stack.chain_url, stack.token, RECIPIENT)
    paid = after - before
    _expect(paid == UNITS, f"the recipient received {paid} units instead of {UNITS}")
    progress.step(
        f"The recipient's balance grew by {AMOUNT} {SYMBOL}: the refund was paid once."
    )


def _request_refund(progress: Progress, gateway: Gateway, session: str) -> Any:
    progress.step(f"The gateway requests a refund of {AMOUNT} {SYMBOL}.")
    status, _, refund = gateway.refund(
        f"key-{session}", payment_session_id=session, amount=AMOUNT
    )
    _expect(status == 201, f"POST returned {status}: {refund}")  # noqa: PLR2004
    progress.detail("response", f"201 {refund['status']}")
    progress.detail("refund", refund["id"])
    progress.detail("transaction", refund["tx_hash"])
    progress.detail("nonce", refund["nonce"])
    return refund


def _await_confirmation(progress: Progress, gateway: Gateway, refund_id: str) -> None:
    progress.step("The worker waits for confirmations.")
    deadline = time.monotonic() + _CONFIRM_SECONDS
    last_status = None
    while last_status != "confirmed":
        refund = gateway.get_refund(refund_id)
        if refund["status"] != last_status:
            last_status = refund["status"]
            progress.detail("status", last_status)
        _expect(last_status != "failed", f"the refund failed: {refund['failure']}")
        _expect(time.monotonic() < deadline, "the refund was not confirmed in time")
        time.sleep(0.1)
    progress.detail("block", refund["block_number"])


def _repeat(progress: Progress, gateway: Gateway, session: str, first: Any) -> None:
    progress.step("The gateway repeats the request, as after a lost response.")
    status, headers, again = gateway.refund(
        f"key-{session}", payment_session_id=session, amount=AMOUNT
    )
    replayed = headers.get("idempotent-replayed")
    _expect(
        status == 200 and again["tx_hash"] == first["tx_hash"],  # noqa: PLR2004
        f"the repeated request returned {status}: {again}",
    )
    progress.detail("response", f"200, Idempotent-Replayed: {replayed}")
    progress.detail("transaction", again["tx_hash"])


def _exceed_limit(progress: Progress, gateway: Gateway) -> None:
    progress.step(f"The gateway requests 5000 {SYMBOL}; the limit per refund is 1000.")
    status, _, problem = gateway.refund(
        "key-" + secrets.token_hex(6), payment_session_id="ps_too_large", amount="5000"
    )
    _expect(status == 422, f"POST returned {status}: {problem}")  # noqa: PLR2004
    progress.detail("response", f"422 {problem['code']} ({problem.get('rule')})")
    progress.detail("detail", problem["detail"])


def _expect(condition: bool, problem: str) -> None:
    if not condition:
        raise DemoError(problem)


if __name__ == "__main__":
    sys.exit(main())
