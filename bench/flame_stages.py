"""What py-spy recorded, and the stage of the work that each sample belongs to."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass


Stack = tuple[str, ...]
"""Functions with their files, the outermost first."""

# A thread that has just been woken is still in one of these; the loops of deadlines and
# of webhooks wait for a lock, which py-spy counts as work.
_WAITS = ("wait", "_wait", "select", "poll", "_work", "_worker", "accept")

REST = "the rest"


@dataclass(frozen=True, slots=True)
class Process:
    """
    A kind of process, and its *stages*: names, and texts of frames.

    A sample belongs to the first stage that has a text in one of its frames.
    """

    name: str
    title: str
    stages: tuple[tuple[str, str], ...]


WORKER = Process(
    "worker",
    "The worker",
    (
        ("audit log: sequence numbers and hash chain", "Sealer.run"),
        ("device, checks and audit records of signatures", "build_and_sign"),
        ("device, checks and audit records of signatures", "backends/pkcs11/"),
        ("transaction: nonces and intents", ".reserve_all"),
        ("receipts and finality", "ConfirmationTracker."),
        ("transactions: bytes, outcomes, broadcasts", ".save_all"),
        ("JSON-RPC: estimates, fees, broadcasts, receipts", "backends/json_rpc/"),
        ("other statements: claims, counters, wallets", "backends/sql/"),
    ),
)
API = Process(
    "api",
    "An API process",
    (
        ("audit log: sequence numbers and hash chain", "Sealer.run"),
        ("token, signature and tenant of the request", "api/auth/"),
        ("transaction: refunds and audit records", "RefundTables.accept"),
        ("waiting for the worker's broadcast", "RefundWaits."),
        ("other statements", "backends/sql/"),
        ("checks of the refund, MAC", "RefundAcceptor."),
        ("log lines", "structlog/"),
        ("HTTP: Falcon and our handlers", "falcon/app.py"),
        ("HTTP: gunicorn", "gunicorn/"),
    ),
)
KMS_WORKER = Process(
    "kms-worker",
    "A worker on a KMS of 20 ms: its main thread, with waits",
    (
        ("signatures: threads wait for KMS", "Attempts._sign_all"),
        ("transaction: nonces and intents", ".reserve_all"),
        ("transactions: bytes, outcomes, broadcasts, receipts", ".save_all"),
        ("estimates, fees, pending count: the chain answers", ".preflight"),
        ("broadcast: the chain answers", ".broadcast_all"),
        ("receipts of what was sent before", "ConfirmationTracker."),
        ("other requests to the chain", "backends/json_rpc/"),
        ("other statements: claims, counters, wallets", "backends/sql/"),
    ),
)


def read_samples(raw: str, thread: str = "") -> Counter[Stack]:
    """
    Return the samples of py-spy's "raw" format, without those that only wait.

    With *thread*, return all samples of threads that have this text in a frame, waiting
    or not.  Frames of interpreter, command line and threads, which begin every stack,
    are left out, as are line numbers.
    """
    samples: Counter[Stack] = Counter()
    for line in raw.splitlines():
        text, _, count = line.rpartition(" ")
        stack = tuple(frame.rpartition(":")[0] or frame for frame in text.split(";"))
        stack = tuple(f"{frame})" if "(" in frame else frame for frame in stack)
        if thread in text if thread else _function(stack[-1]) not in _WAITS:
            samples[tuple(_without_start(stack))] += int(count)
    return samples


def _function(frame: str) -> str:
    return frame.partition(" (")[0].rpartition(".")[2]


_START = ("<frozen", "threading.py", "concurrent/futures/", "click/", "api/cli/")


def _without_start(stack: Stack) -> Iterator[str]:
    has_begun = False
    for frame in stack:
        has_begun = has_begun or not any(text in frame for text in _START)
        if has_begun:
            yield frame


def find_stage(process: Process, stack: Stack) -> str:
    """Return the stage of *process* that a sample belongs to."""
    for name, text in process.stages:
        if any(text in frame for frame in stack):
            return name
    return REST
