"""What befalls a SoftHSM token, and the PIN that opens it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.troubles import Trouble, away
from tests.support.canaries import value


def token_troubles(
    tokens: Path, pin: Path, ask: Callable[[], object]
) -> Iterator[Trouble]:
    """
    Yield what befalls a token, and the PIN of who opens it again.

    The PIN is read where a token was lost that is back, so that somebody has to *ask*
    for a signature while it is gone.
    """

    @contextmanager
    def gone(trouble: Trouble) -> Iterator[None]:
        with away(tokens):
            yield

    @contextmanager
    def wrong(trouble: Trouble) -> Iterator[None]:
        with away(tokens):
            ask()
            right = pin.read_text(encoding="utf-8")
            pin.write_text(value("pkcs11-wrong-pin"), encoding="utf-8")
        try:
            yield
        finally:
            pin.write_text(right, encoding="utf-8")

    @contextmanager
    def public(trouble: Trouble) -> Iterator[None]:
        with away(tokens):
            ask()
            pin.chmod(0o644)
        try:
            yield
        finally:
            pin.chmod(0o600)

    @contextmanager
    def no_file(trouble: Trouble) -> Iterator[None]:
        with away(tokens):
            ask()
            aside = pin.rename(pin.with_name("pin.aside"))
        try:
            yield
        finally:
            aside.rename(pin)

    yield Trouble("token: removed", "backend-unavailable", gone)
    for name, during in (
        ("another PIN", wrong),
        ("a PIN that all can read", public),
        ("no PIN file", no_file),
    ):
        yield Trouble(f"token: {name}", "backend-access-denied", during)
