"""
Which key a starting process signs with: the ring's active one, or the first one.

The configuration names the first key of a new ledger.  From then on the ring says
which key is active, since a rotation reaches all processes by it, and the
configuration is only compared: a key that the ring never heard of means that somebody
changed the setting by hand, or that the ledger is from before a rotation.
"""

from collections.abc import Callable
from dataclasses import replace

from signer.errors import ConfigurationError, HotWalletError, Refusal
from signer.keyring import OpenSigner
from signer.keys import Key, KeyState
from signer.ports import Clock, KeyDirectory, KeyStore
from signer.signing import Signer


Prove = Callable[[Callable[[], Signer]], Signer]
"""Returns what the given function opens, when it has signed; the guard's refusal."""


class Enrolment:
    """Finds the active key of a ledger, or makes the configured one that."""

    def __init__(
        self,
        store: KeyStore,
        directory: KeyDirectory,
        open_signer: OpenSigner,
        prove: Prove,
        clock: Clock,
    ) -> None:
        self._store = store
        self._directory = directory
        self._open_signer = open_signer
        self._prove = prove
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
            ConfigurationError: The key does not sign; or the ring does not know the
                configured one (``key-not-in-ring``), or has its active key in another
                backend (``key-backend-mismatch``).
            StoreError: The ledger does not answer.
        """
        active = self._store.active_key() or self._enrolled(name, expected_address)
        if active.backend != self._directory.name:
            raise ConfigurationError(
                Refusal(
                    "key-backend-mismatch",
                    f"the ledger's active key is in {active.backend}, and the"
                    f" configuration opens {self._directory.name}",
                )
            )
        signer = self._prove(lambda: self._open_signer(active))
        return signer, self._compare(active, name, expected_address)

    def _enrolled(self, name: str, expected_address: str | None) -> Key:
        now = self._clock()
        key = Key(
            backend=self._directory.name,
            key_id=name,
            address=expected_address or "",  # An empty one is not compared.
            state=KeyState.ACTIVE,
            created_at=now,
            updated_at=now,
            requested_by="configuration",
        )

        def configured() -> Signer:
            return self._open_signer(replace(key, key_id=self._directory.resolve(name)))

        # Before anything is written: an empty ring gets no key that does not sign.
        signer = self._prove(configured)
        return self._store.enrol(
            replace(key, key_id=signer.key_id, address=signer.address)
        )

    def _compare(
        self, active: Key, name: str, expected_address: str | None
    ) -> list[str]:
        ring = self._store.keys()
        ids = {key.key_id for key in ring if key.backend == self._directory.name}
        addresses = {key.address.lower() for key in ring}
        if self._pinned(name, ids) not in ids:
            raise ConfigurationError(_unknown("the configured key"))
        expected = (expected_address or active.address).lower()
        if expected not in addresses:
            raise ConfigurationError(_unknown("WALLET_ADDRESS"))
        if self._pinned(name, ids) == active.key_id:
            return []
        return ["the configured key was rotated away from; the ring's active one signs"]

    def _pinned(self, name: str, ids: set[str]) -> str | None:
        """Return the id that *name* means; the device is asked only about aliases."""
        for known in ids:
            if name in {known, known.rpartition("/")[2]}:
                return known
        try:
            return self._directory.resolve(name)
        except HotWalletError:
            return None  # Deleted, disabled, or never there: not in the ring.


def _unknown(what: str) -> Refusal:
    return Refusal(
        "key-not-in-ring",
        f"{what} is none that the ledger knows: to change keys, use `hotwallet keys"
        " rotate`; after a restore, see docs/operations/restore.md",
    )
