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


def create_mac_key(out: Path) -> str:
    """
    Create a file with one MAC key at *out*; return the id of the key.

    Raises:
        InvalidInputError: *out* exists.
        OSError: The file cannot be written.
    """
    new = RowMACs.generate()
    if not create_once(out, lambda: new):
        raise InvalidInputError(f"{out} exists: --add adds a new key to it")
    return _key_id(new)


def add_mac_key(out: Path) -> str:
    """
    Append a new key to *out*; return its id.

    The key only verifies MACs until ``activate_mac_key``.

    Raises:
        InvalidInputError: *out* does not exist.
        ConfigurationError: ``mac-key-invalid``: *out* is not a file of MAC keys.
        OSError: The file cannot be written.
    """
    new = RowMACs.generate()
    write_whole(out, b"".join([*_read_lines(out), new]))
    return _key_id(new)


def activate_mac_key(out: Path) -> str:
    """
    Move the last key of *out* to the first line, so it makes new MACs; return its id.

    Every host must have loaded the file with the added key before.  A host that has not
    declares genuine audit records of the others forged.

    Raises:
        InvalidInputError: *out* does not exist, or has one key only.
        ConfigurationError: ``mac-key-invalid``: *out* is not a file of MAC keys.
        OSError: The file cannot be written.
    """
    *others, last = _read_lines(out)
    if not others:
        raise InvalidInputError(
            f"{out} has one key, which is active: first add another one with --add"
        )
    write_whole(out, b"".join([last, *others]))
    return _key_id(last)


def _read_lines(out: Path) -> list[bytes]:
    """Return the lines of a valid file; each ends with a line feed."""
    if not out.exists():
        raise InvalidInputError(
            f"{out} does not exist: create it without --add and --activate"
        )
    RowMACs.load(out)
    text = out.read_text(encoding="ascii")
    return [f"{line}\n".encode() for line in text.splitlines()]


def _key_id(line: bytes) -> str:
    return line.decode().partition(" ")[0]
