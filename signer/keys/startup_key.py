"""
Which key a starting process signs with: the ring's active one, or the first one.

The configuration names the first key of a new ledger.  From then on the ring says
which key is active, since a rotation reaches all processes by it, and the
configuration is only compared: a key that never was active there means that somebody
changed the setting by hand, or that the ledger is from before a rotation.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from signer.errors import (
    ConfigurationError,
    HotWalletError,
    KeyRotatedError,
    Refusal,
)
from signer.keys.signer import Signer, SignerFactory
from signer.model.key import Key, KeyState, is_same_key
from signer.ports import Clock, KeyDirectory, KeyStore


_ROTATIONS_MEANWHILE = 3


class SelfTest(Protocol):
    """The guard's judgement of a key."""

    def __call__(
        self, open_signer: Callable[[], Signer], *, while_active: bool = False
    ) -> Signer:
        """
        Return what *open_signer* opens, when it has signed.

        Raises:
            KeyRotatedError: With *while_active*: it is not the ring's active key.
            ConfigurationError: It does not sign.
        """


class StartupKey:
    """Finds the active key of a ledger, or makes the configured one that."""

    def __init__(
        self,
        store: KeyStore,
        signers: SignerFactory,
        self_test: SelfTest,
        clock: Clock,
    ) -> None:
        self._store = store
        self._signers = signers
        self._self_test = self_test
        self._clock = clock

    def settle(
        self, name: str, expected_address: str | None
    ) -> tuple[Signer, list[str]]:
        """
        Prove the active key, which *name* becomes if there is none.

        *expected_address* is what the operator believes the key's address to be.

        Returns:
            Its signer, and warnings.

        Raises:
            ConfigurationError: The key does not sign; or the configured one never was
                the ring's active key (``key-not-in-ring``); or the ring has its active
                key in another backend (``key-backend-mismatch``).
            StoreError: The ledger does not answer.
        """
        for _ in range(_ROTATIONS_MEANWHILE):
            try:
                return self._settled(name, expected_address)
            except KeyRotatedError:
                continue
        raise KeyRotatedError("the active key changes faster than it signs")

    def _settled(
        self, name: str, expected_address: str | None
    ) -> tuple[Signer, list[str]]:
        active = self._store.active_key() or self._enrolled(name, expected_address)
        require_backend(active, self._signers.directory)
        signer = self._self_test(lambda: self._signers.open(active), while_active=True)
        return signer, self._compare(active, name, expected_address)

    def _enrolled(self, name: str, expected_address: str | None) -> Key:
        now = self._clock()
        key = Key(
            backend=self._signers.directory.name,
            key_id=name,
            address=expected_address or "",  # An empty one is not compared.
            state=KeyState.ACTIVE,
            created_at=now,
            updated_at=now,
            requested_by="configuration",
        )

        def configured() -> Signer:
            return self._signers.open(
                replace(key, key_id=self._signers.directory.resolve(name))
            )

        # Before anything is written: an empty ring gets no key that does not sign.
        signer = self._self_test(configured)
        return self._store.enrol(
            replace(key, key_id=signer.key_id, address=signer.address)
        )

    def _compare(
        self, active: Key, name: str, expected_address: str | None
    ) -> list[str]:
        ring = self._store.keys()
        pinned = self._pinned(name, ring)
        if pinned is None:
            raise ConfigurationError(unknown("the configured key"))
        require_address(ring, expected_address or active.address)
        if pinned != active.key_id:
            return [_ROTATED_AWAY]
        # A bare id, or an alias, says nothing of the region.
        return [_RELOCATED] if name.startswith("arn:") and name != pinned else []

    def _pinned(self, name: str, ring: Sequence[Key]) -> str | None:
        try:
            found = meant(name, ring, self._signers.directory)
        except HotWalletError as e:
            if e.retryable:
                problem = Refusal("kms-signing-error", f"{_NO_ALIAS} ({e.code})")
                raise ConfigurationError(problem) from None
            return None  # Deleted, disabled, or never there: not in the ring.
        return None if found is None else found.key_id


def meant(name: str, ring: Sequence[Key], directory: KeyDirectory) -> Key | None:
    """
    Return which key of *ring* *name* means, if one; the device is asked about aliases.

    A key that was relocated is still the one that the configuration names, and one that
    never was active is not one of the ring's yet.

    Raises:
        HotWalletError: The device was asked, and has no such key that can be used.
    """
    ours = [key for key in _served(ring) if key.backend == directory.name]
    for key in ours:
        if name == key.key_id.rpartition("/")[2] or is_same_key(name, key.key_id):
            return key
    found = directory.resolve(name)
    return next((key for key in ours if is_same_key(found, key.key_id)), None)


def require_backend(active: Key, directory: KeyDirectory) -> None:
    """
    Make sure that the ring's *active* key is in the device that was opened.

    Raises:
        ConfigurationError: ``key-backend-mismatch``.
    """
    if active.backend != directory.name:
        raise ConfigurationError(
            Refusal(
                "key-backend-mismatch",
                f"the ledger's active key is in {active.backend}, and the"
                f" configuration opens {directory.name}",
            )
        )


def require_address(ring: Sequence[Key], expected: str) -> None:
    """
    Make sure that a key with the *expected* address is, or was, active in *ring*.

    Raises:
        ConfigurationError: ``key-not-in-ring``.
    """
    if expected.lower() not in {key.address.lower() for key in _served(ring)}:
        raise ConfigurationError(unknown("WALLET_ADDRESS"))


def unknown(what: str) -> Refusal:
    """Return why no process starts while *what* is none of the ring's."""
    return Refusal(
        "key-not-in-ring",
        f"{what} never was the ledger's active one: to change keys, use `hotwallet keys"
        " rotate`; after a restore, see docs/operations/restore.md",
    )


def _served(ring: Sequence[Key]) -> Sequence[Key]:
    # A ledger from a backup may have a key as pending, or rejected, that has paid
    # since: its address is compared with the chains only once it is active here too.
    return [key for key in ring if key.epoch is not None]


_NO_ALIAS = (
    "the configured key's name cannot be looked up at the moment; an ARN needs no look"
)
_ROTATED_AWAY = "the configured key was rotated away from; the ring's active one signs"
_RELOCATED = (
    "the configured key was relocated; the ring's replica signs, in another region"
)
