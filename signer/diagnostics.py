"""
Diagnostic checks that run in order, each with the names of those that it needs.

A failure is reported once: checks that need a failed check are skipped, so that an
operator sees the cause and not its consequences.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from signer.deadline import Deadlines
from signer.errors import BackendUnavailableError, ConfigurationError, HotWalletError
from signer.redact import sanitize


CHECK_SECONDS = 15.0
"""The deadline of a check: longer than the devices' own deadlines."""

EXPLAIN = "run: hotwallet explain-code CODE"
"""A cure that no page has."""


class State(StrEnum):
    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """
    What a check found; *cure* is set if it is a warning, or *is_failed*.

    *code* is the name of the problem, if it has one.
    """

    detail: str
    cure: str | None = None
    code: str | None = None
    is_failed: bool = False


@dataclass(frozen=True, slots=True)
class Check:
    """
    A check called *name*, which runs if no check in *needs* failed or was skipped.

    ``run`` raises an error if the check fails; ``cure`` says what to do then.  The word
    ``CODE`` in it is replaced by the error's code.
    """

    name: str
    run: Callable[[], Finding]
    cure: str
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CheckResult:
    """
    The outcome of a check.

    ``cure`` is None if there is nothing to do, and ``code`` if the problem has no name.
    """

    name: str
    state: State
    detail: str
    cure: str | None = None
    code: str | None = None

    def lines(self) -> Iterator[str]:
        yield f"{self.state:8} {self.name:18} {self.detail}"
        if self.cure:
            yield f"{'':8} {'':18} -> {self.cure}"


def run_checks(
    checks: Iterable[Check], seconds: float = CHECK_SECONDS
) -> Iterator[CheckResult]:
    """
    Run *checks* one by one, each for at most *seconds*; never raises.

    *checks* may be a generator that uses what earlier checks have found.
    """
    deadlines = Deadlines()
    broken: set[str] = set()
    for check in checks:
        missing = [name for name in check.needs if name in broken]
        if missing:
            detail = f"needs {' and '.join(missing)}"
            result = CheckResult(check.name, State.SKIPPED, detail)
        else:
            result = _run(check, deadlines, seconds)
        if result.state in {State.FAILED, State.SKIPPED}:
            broken.add(check.name)
        yield result


def _run(check: Check, deadlines: Deadlines, seconds: float) -> CheckResult:
    try:
        finding = deadlines.within(
            seconds, check.run, name=check.name, late=BackendUnavailableError
        )
    except ConfigurationError as e:
        code = e.refusals[0].code
        detail = "; ".join(str(refusal) for refusal in e.refusals)
    except HotWalletError as e:
        code = e.code
        detail = f"{code}: {e}"
    except Exception as e:  # noqa: BLE001  What is broken may raise anything.
        # The message of an unknown exception may hold a secret; its class cannot.
        code = HotWalletError.code
        detail = f"{code}: {type(e).__name__}"
    else:
        state = State.OK if finding.cure is None else State.WARNING
        state = State.FAILED if finding.is_failed else state
        named, detail = finding.code, finding.detail
        detail = sanitize(detail if named is None else f"{named}: {detail}")
        return CheckResult(check.name, state, detail, finding.cure, named)
    cure = check.cure.replace("CODE", code)
    return CheckResult(check.name, State.FAILED, sanitize(detail), cure, code)
