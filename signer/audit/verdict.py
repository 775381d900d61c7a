"""What the verification of an export proves, and its first problem."""

from dataclasses import dataclass
from datetime import datetime

from signer.audit.checkpoint_schedule import Unsigned
from signer.errors import HotWalletError


@dataclass(frozen=True, slots=True)
class Forgery:
    """
    A record that a later one, ``declared_by``, declares forged; both by sequence.

    One that is not canonical cannot be a record of the service.
    """

    sequence: int
    declared_by: int
    is_canonical: bool


@dataclass(frozen=True, slots=True)
class ForgedCheckpoints:
    """
    How many lines are no checkpoint of this chain by a trusted key.

    The first one is on ``line`` (from 1), after ``sequence`` records; ``problem`` is
    what is wrong with it.
    """

    count: int
    line: int
    sequence: int
    problem: str


@dataclass(frozen=True, slots=True)
class Finding:
    """The first problem of an export: the first bad record, and its line (from 1)."""

    code: str
    sequence: int
    line: int
    message: str

    def __str__(self) -> str:
        return f"record {self.sequence} (line {self.line}): {self.message}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """
    What an export proves.

    The first ``records`` records form a valid chain with the last hash ``head``.  The
    first ``signed`` of them are covered by a checkpoint, made at ``signed_at`` by the
    clock of the signer, and were not changed since.  A manipulation affects a record
    after those, and none after the one in ``finding``.

    ``forged`` has the records that no process of the service wrote, as the sealer
    declared: another program wrote to the database.  ``forged_checkpoints`` prove
    nothing and were ignored: another program wrote them, or their key is not trusted.

    ``newest_at`` is the time of the last record; it reveals an older copy of the file.
    ``late`` lists records that were without a checkpoint for too long, as after a
    stop: until it was made, they were unprotected.
    """

    origin: str | None
    records: int
    head: bytes
    checkpoints: int
    signed: int
    signed_at: datetime | None
    newest_at: datetime | None
    late: tuple[Unsigned, ...]
    forged: tuple[Forgery, ...]
    forged_checkpoints: ForgedCheckpoints | None
    finding: Finding | None

    @property
    def is_good(self) -> bool:
        """Whether there is no finding."""
        return self.finding is None


class FoundError(HotWalletError):
    """Ends the verification with a finding; *line* is the current one if None."""

    def __init__(
        self, code: str, sequence: int, message: str, line: int | None = None
    ) -> None:
        super().__init__(message)
        self.finding_code = code
        self.sequence = sequence
        self.line = line
