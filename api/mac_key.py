"""Loads the key of the ledger's row MACs; outside production, creates it."""

from pathlib import Path

from signer.config.settings import Settings
from signer.errors import ConfigurationError, InvalidInputError, Refusal
from signer.private_files import create_once, write_whole
from signer.row_macs import RowMACs


def open_row_macs(settings: Settings) -> RowMACs | None:
    """
    Return what makes and verifies the MACs of rows; None if there is no key.

    Outside production a missing key is created in ``HOTWALLET_HOME``.  Any number of
    processes may call this at once: they all return the same key.

    Raises:
        ConfigurationError: ``mac-key-invalid``: the file is not usable, or cannot be
            created.
    """
    path = settings.mac_key_file
    if path is None and settings.is_production:
        return None  # The guard reports it.
    if path is None:
        path = settings.home / "mac.key"
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            create_once(path, RowMACs.generate)
        except OSError as e:
            problem = (
                f"mac.key cannot be created in HOTWALLET_HOME ({type(e).__name__}):"
                " make the directory writable, or set MAC_KEY_FILE"
            )
            raise ConfigurationError(Refusal("mac-key-invalid", problem)) from None
    return RowMACs.load(path)


def create_or_rotate(out: Path, *, rotate: bool) -> str:
    """
    Create a MAC key at *out*, or put a new one before those in the file with *rotate*.

    Returns:
        The id of the new key.

    Raises:
        InvalidInputError: *out* exists and *rotate* is false, or the reverse.
        ConfigurationError: ``mac-key-invalid``: *out* is not a file of MAC keys.
        OSError: The file cannot be written.
    """
    new = RowMACs.generate()
    if rotate:
        if not out.exists():
            raise InvalidInputError(f"{out} does not exist: leave out --rotate")
        RowMACs.load(out)
        write_whole(out, new + out.read_bytes())
    elif not create_once(out, lambda: new):
        raise InvalidInputError(f"{out} exists: --rotate adds a new key to it")
    return new.decode().partition(" ")[0]
