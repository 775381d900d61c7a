"""A process that signs digests with the active key, through ``KeyRing.sign_digest``."""

import os
import secrets
import time
from multiprocessing.synchronize import Event
from pathlib import Path

from api.bootstrap import open_container
from api.logs import configure
from signer.config.settings import Settings
from signer.errors import HotWalletError
from signer.model.audit_record import Operation
from tests.crash.gateway_process import submit_at_rate
from tests.crash.journal import Journal
from tests.support.signings import Unchecked


_THREADS = 4
_PURPOSE = Unchecked(Operation.MESSAGE_SIGNING, actor="signatures")


def run_signing(per_second: float, journal_file: Path, stop: Event) -> None:
    """Sign random digests at that rate until *stop*, and journal every result."""
    configure(Settings.from_env(os.environ))
    ring = open_container(serving=False).ring
    with Journal(journal_file) as journal:

        def sign(_: int) -> None:
            digest = secrets.token_bytes(32)
            began = time.monotonic()
            try:
                signature, signer = ring.sign_digest(digest, _PURPOSE)
            except HotWalletError as e:
                journal.write("refused", began=began, error=e.code)
                return
            is_good = signature.recover(digest) == signer.public_key
            event = "signed" if is_good else "wrong signature"
            journal.write(event, began=began, address=signer.address)

        submit_at_rate(per_second, _THREADS, stop, sign)
