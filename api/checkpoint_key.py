"""The key for checkpoints that a laptop makes for itself."""

import os
from contextlib import suppress
from pathlib import Path

from signer.audit.checkpoints import CheckpointKey
from softhsm.files import write_whole


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
        with suppress(FileExistsError):
            # Linking fails where renaming would replace another process's key.
            write_whole(path, CheckpointKey.generate().private_pem(), os.link)
    return CheckpointKey.load(path)
