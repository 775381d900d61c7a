"""
``make demo``: one refund, from an HTTP request to a confirmed transfer.

Tells what happens as it happens, and ends with status 0 only if all of it did.
"""

import os
import secrets
import signal
import sys
import time
from collections.abc import Mapping
from typing import Any

from dev import stablecoin
from dev.stack import (
    NETWORK,
    SYMBOL,
    Stack,
    default_home,
    request,
    running_stack,
)


# An address that nobody has used: the second account of every local chain.
RECIPIENT = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
AMOUNT = "12.50"
UNITS = 12_500_000

_CONFIRM_SECONDS = 60.0


class StoryError(Exception):
    """The story did not go as told."""


class Story:
    """Prints paragraphs and facts, with the seconds since the beginning."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ

    def tell(self, text: str) -> None:
        """Print one step."""
        stamp = self._dim(f"{time.monotonic() - self._started:5.1f} s")
        print(f"{stamp}  {text}", flush=True)

    def fact(self, name: str, value: object) -> None:
        """Print one fact under the step."""
        print(f"         {self._dim(f'{name:<14}')} {value}", flush=True)

    def _dim(self, text: str) -> str:
        return f"\x1b[2m{text}\x1b[0m" if self._colour else text


class Gateway:
    """The payment gateway: a client that knows nothing but the API."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        # Lives for five minutes, as the service demands; the story is shorter.
        token = stack.command("token", "--role", "merchant", "--subject", "gateway")
        self._authorization = {"Authorization": f"Bearer {token}"}

    def refund(self, key: str, **fields: str) -> tuple[int, Mapping[str, str], Any]:
        """Ask for a refund."""
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

    def look(self, refund_id: str) -> Any:
        """Look at a refund."""
        status, _, refund = request(
            "GET",
            f"{self._stack.url}/v1/refunds/{refund_id}",
            headers=self._authorization,
        )
        _expect(status == 200, f"GET answered {status}: {refund}")  # noqa: PLR2004
        return refund


def main() -> int:
    """Tell the story; 0 if it went as told."""
    for number in (signal.SIGINT, signal.SIGTERM):
        # Explicitly: a shell's background jobs are started with SIGINT ignored.
        signal.signal(number, signal.default_int_handler)
    story = Story()
    use_kms = os.environ.get("USE_KMS", "").lower() == "true"
    try:
        with running_stack(
            default_home(),
            use_kms=use_kms,
            settings={"WEB_CONCURRENCY": "1"},  # One process starts sooner than two.
            say=lambda text: story.tell(f"{text} ..."),
        ) as stack:
            _introduce(story, stack)
            _pay_once(story, stack)
            story.tell("Stopping everything that was started ...")
    except KeyboardInterrupt:
        print("\nStopped, with everything that was started.", file=sys.stderr)
        return 130
    except (StoryError, RuntimeError) as e:
        print(f"\nThe demo failed: {e}", file=sys.stderr)
        return 1
    story.tell("Done: one refund, paid once, signed by a key that never left its HSM.")
    return 0


def _introduce(story: Story, stack: Stack) -> None:
    story.tell("The stack is up.")
    kms = stack.environ.get("USE_KMS") == "true"
    story.fact("key", "AWS KMS API, local emulator" if kms else "SoftHSM, PKCS#11")
    story.fact("address", stack.address)
    story.fact("chain", f"{stack.engine}, {stack.chain_url}")
    story.fact("stablecoin", f"{SYMBOL} {stack.token}")
    story.fact("API", stack.url)


def _pay_once(story: Story, stack: Stack) -> None:
    gateway = Gateway(stack)
    session = f"ps_{secrets.token_hex(6)}"
    before = stablecoin.balance_of(stack.chain_url, stack.token, RECIPIENT)
    refund = _ask(story, gateway, session)
    _await_confirmation(story, gateway, refund["id"])
    _repeat(story, gateway, session, refund)
    _overreach(story, gateway)
    after = stablecoin.balance_of(stack.chain_url, stack.token, RECIPIENT)
    paid = after - before
    _expect(paid == UNITS, f"{paid} units arrived instead of {UNITS}")
    story.tell(
        f"On the chain, the customer has {AMOUNT} {SYMBOL} more.  Not twice that."
    )


def _ask(story: Story, gateway: Gateway, session: str) -> Any:
    story.tell(f"The gateway asks for a refund of {AMOUNT} {SYMBOL}.")
    status, _, refund = gateway.refund(
        f"key-{session}", payment_session_id=session, amount=AMOUNT
    )
    _expect(status == 201, f"POST answered {status}: {refund}")  # noqa: PLR2004
    story.fact("answer", f"201 {refund['status']}")
    story.fact("refund", refund["id"])
    story.fact("transaction", refund["tx_hash"])
    story.fact("nonce", refund["nonce"])
    return refund


def _await_confirmation(story: Story, gateway: Gateway, refund_id: str) -> None:
    story.tell("The worker follows it on the chain.")
    deadline = time.monotonic() + _CONFIRM_SECONDS
    seen = None
    while seen != "confirmed":
        refund = gateway.look(refund_id)
        if refund["status"] != seen:
            seen = refund["status"]
            story.fact("status", seen)
        _expect(seen != "failed", f"it failed: {refund['failure']}")
        _expect(time.monotonic() < deadline, "it was not confirmed in time")
        time.sleep(0.1)
    story.fact("block", refund["block_number"])


def _repeat(story: Story, gateway: Gateway, session: str, first: Any) -> None:
    story.tell("The gateway did not hear the answer, and asks again.")
    status, headers, again = gateway.refund(
        f"key-{session}", payment_session_id=session, amount=AMOUNT
    )
    replayed = headers.get("idempotent-replayed")
    _expect(
        status == 200 and again["tx_hash"] == first["tx_hash"],  # noqa: PLR2004
        f"the repetition answered {status}: {again}",
    )
    story.fact("answer", f"200, Idempotent-Replayed: {replayed}")
    story.fact("transaction", again["tx_hash"])


def _overreach(story: Story, gateway: Gateway) -> None:
    story.tell(f"Somebody asks for a refund of 5000 {SYMBOL}; the limit is 1000.")
    status, _, problem = gateway.refund(
        "key-" + secrets.token_hex(6), payment_session_id="ps_greedy", amount="5000"
    )
    _expect(status == 422, f"POST answered {status}: {problem}")  # noqa: PLR2004
    story.fact("answer", f"422 {problem['code']} ({problem.get('rule')})")
    story.fact("detail", problem["detail"])


def _expect(condition: bool, otherwise: str) -> None:
    if not condition:
        raise StoryError(otherwise)


if __name__ == "__main__":
    sys.exit(main())
