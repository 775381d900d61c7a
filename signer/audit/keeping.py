"""Where a process has the key that it signs checkpoints with."""

import os
import secrets
from contextlib import suppress
from pathlib import Path

from signer.audit.checkpoints import CheckpointKey


def provided(path: Path) -> CheckpointKey:
    """
    Return the key at *path*, made there if there is none.

    Any number of processes may do so at once, and die in the middle: a key appears
    whole or not at all, and the first one stays.

    Raises:
        ConfigurationError: ``audit-misconfigured``.
        OSError: No file can be made there.
    """
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        try:
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(CheckpointKey.generate().private_pem())
                file.flush()
                os.fsync(descriptor)
            with suppress(FileExistsError):
                # Linking fails where renaming would replace another process's key.
                os.link(draft, path)
        finally:
            draft.unlink(missing_ok=True)
    return CheckpointKey.load(path)
