"""
Decides which key a starting process signs with, and self-tests it.

In an empty ledger, the configured key becomes the first key of the ring.  After that
the ring decides, because a rotation reaches every process through the ring, and the
configured key is only compared with it.  A configured key that was never active there
means that the setting was changed by hand, or that the ledger was restored from a
backup that is older than a rotation.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, replace
from typing import Protocol, TypeVar

from signer.errors import ConfigurationError, HotWalletError, KeyRotatedError, Refusal
from signer.keys.signer import Signer, SignerFactory
from signer.model.key import Key, KeyState, is_same_key
from signer.ports.clock import Clock
from signer.ports.key_backend import KeyDirectory
from signer.ports.key_store import KeyStore


T = TypeVar("T")

_MAX_TRIES = 3


class SelfTest(Protocol):
    """The start-up guard's test of a key: ``self_test_key`` with its settings."""

    def __call__(
        self, open_signer: Callable[[], Signer], *, while_active: bool = False
    ) -> Signer:
        """Return the signer that *open_signer* opens, after a test signature."""


@dataclass(eq=False, repr=False)
class StartupKey:
    """
    Finds the active key of a ledger, or enrols the configured key in it.

    Without *needs_device*, a device that does not answer at the moment is no reason
    not to start, if the ring has an active key.
    """

    store: KeyStore
    signers: SignerFactory
    self_test: SelfTest
    clock: Clock
    _: KW_ONLY
    needs_device: bool = True

    def __post_init__(self) -> None:
        self._directory = self.signers.directory

    def open(
        self, name: str, expected_address: str | None
    ) -> tuple[Signer | None, list[str]]:
        """
        Open and self-test the active key; enrol the key *name* if there is none.

        *expected_address* is the configured ``WALLET_ADDRESS``.  Return the signer of
        the active key, None if the device does not answer, and warnings.

        Raises:
            ConfigurationError: The key does not sign; the configured key was never the
                ring's active key (``key-not-in-ring``); or the active key is in another
                backend (``key-backend-mismatch``).
            StoreError: The ledger does not answer.
        """
        for _ in range(_MAX_TRIES):
            with suppress(KeyRotatedError):
                return self._open(name, expected_address)
        raise KeyRotatedError("the active key changed during every self-test")

    def _open(
        self, name: str, expected_address: str | None
    ) -> tuple[Signer | None, list[str]]:
        active = self.store.active_key() or self._enrol(name, expected_address)
        require_backend(active, self._directory)

        def open_active() -> Signer:
            return self.self_test(lambda: self.signers.open(active), while_active=True)

        signer = self._unless_down(open_active)
        warnings = self._compare(active, name, expected_address)
        return signer, warnings if signer else [_NO_DEVICE, *warnings]

    def _unless_down(self, ask: Callable[[], T]) -> T | None:
        """Return what *ask* returns; None if the device may be down, and is."""
        try:
            return ask()
        except ConfigurationError as e:
            if self.needs_device or not e.is_transient:
                raise
        return None

    def _enrol(self, name: str, expected_address: str | None) -> Key:
        now = self.clock()
        key = Key(
            backend=self._directory.name,
            key_id=name,
            address=expected_address or "",  # An empty address is not compared.
            state=KeyState.ACTIVE,
            created_at=now,
            updated_at=now,
            requested_by="configuration",
        )

        def open_configured() -> Signer:
            key_id = self._directory.resolve(name)
            return self.signers.open(replace(key, key_id=key_id))

        # Before the ring is written, so that no key is enrolled that does not sign.
        signer = self.self_test(open_configured)
        return self.store.enrol(
            replace(key, key_id=signer.key_id, address=signer.address)
        )

    def _compare(
        self, active: Key, name: str, expected_address: str | None
    ) -> list[str]:
        ring = self.store.keys()
        configured = self._unless_down(lambda: self._find_configured(name, ring))
        require_address(ring, expected_address or active.address)
        if configured is None:
            return []  # An alias, which only the device resolves.
        if configured.key_id != active.key_id:
            return [_ROTATED_AWAY]
        # A bare id or an alias does not name a region.
        is_old_arn = name.startswith("arn:") and name != configured.key_id
        return [_FAILED_OVER] if is_old_arn else []

    def _find_configured(self, name: str, ring: Sequence[Key]) -> Key:
        configured = (
            None  # Also of a key that is deleted or disabled, or never existed.
        )
        try:
            configured = resolve_in_ring(name, ring, self._directory)
        except HotWalletError as e:
            if e.retryable:
                problem = Refusal(
                    "kms-signing-error",
                    f"{_NO_LOOKUP} ({e.code})",
                    is_transient=e.retryable,
                )
                raise ConfigurationError(problem) from None
        if configured is None:
            raise ConfigurationError(not_in_ring("the configured key"))
        return configured


def resolve_in_ring(
    name: str, ring: Sequence[Key], directory: KeyDirectory
) -> Key | None:
    """
    Return the key of *ring* that *name* refers to, or None.

    The device is asked only about names that the ring does not have, such as aliases;
    it raises a ``HotWalletError`` if it has no usable key with this name.  A key that
    failed over to a replica still has its old name.  Keys that were never active are
    not considered.
    """
    ours = [key for key in _served(ring) if key.backend == directory.name]
    for key in ours:
        if name == key.key_id.rpartition("/")[2] or is_same_key(name, key.key_id):
            return key
    found = directory.resolve(name)
    return next((key for key in ours if is_same_key(found, key.key_id)), None)


def require_backend(active: Key, directory: KeyDirectory) -> None:
    """Refuse (``key-backend-mismatch``) an *active* key of another backend."""
    if active.backend != directory.name:
        raise ConfigurationError(
            Refusal(
                "key-backend-mismatch",
                f"the ledger's active key is in {active.backend}, and the"
                f" configuration opens {directory.name}",
            )
        )


def require_address(ring: Sequence[Key], expected: str) -> None:
    """Refuse (``key-not-in-ring``) an address that was never active in *ring*."""
    if expected.lower() not in {key.address.lower() for key in _served(ring)}:
        raise ConfigurationError(not_in_ring("WALLET_ADDRESS"))


def not_in_ring(what: str) -> Refusal:
    """Return the refusal to start because *what* was never active in the ring."""
    return Refusal(
        "key-not-in-ring",
        f"{what} was never active in the ledger: to change keys, use `hotwallet keys"
        " rotate`; after a restore, see docs/how-to/restore.md",
    )


def _served(ring: Sequence[Key]) -> Sequence[Key]:
    # A ledger from a backup may have a key as pending or rejected that has paid since.
    # The key's nonces are compared with the chains only once it is active here too.
    return [key for key in ring if key.epoch is not None]


_NO_LOOKUP = (
    "the configured key's name cannot be resolved at the moment; configure its ARN,"
    " which needs no lookup"
)
_NO_DEVICE = (
    "the device does not answer, so the active key is not tested yet: what needs no"
    " signature works, and /readyz tests the key again"
)
_ROTATED_AWAY = (
    "the configured key was rotated away from; the ring's active key signs instead"
)
_FAILED_OVER = (
    "the configured key failed over to a replica in another region, which signs instead"
)
