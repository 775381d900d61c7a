"""
A ladder: one rung after the other, each with what it stands on.

What failed is named once.  What stands on it is skipped, so that a reader sees the
cause and not its twenty consequences.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from signer.deadline import Deadlines
from signer.errors import BackendUnavailableError, ConfigurationError, HotWalletError
from signer.redact import sanitize


RUNG_SECONDS = 15.0
"""How long a rung is waited for: longer than the devices' own deadlines."""


class State(StrEnum):
    """How a rung was found."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found where nothing failed; *cure* says what to do about a warning."""

    said: str
    cure: str | None = None

    @property
    def state(self) -> State:
        """A warning, if there is something to do."""
        return State.OK if self.cure is None else State.WARNING


@dataclass(frozen=True, slots=True)
class Check:
    """
    What to look at, and the names of the steps that it stands on.

    ``look`` raises one of our errors when it fails; ``cure`` says what to do then.
    """

    name: str
    look: Callable[[], Finding]
    cure: str
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What became of a step.  ``cure`` is None where there is nothing to do."""

    name: str
    state: State
    said: str
    cure: str | None = None

    def to_json(self) -> dict[str, str | None]:
        """Return the rung as JSON has it."""
        return {
            "name": self.name,
            "state": str(self.state),
            "said": self.said,
            "cure": self.cure,
        }


def run_checks(
    steps: Iterable[Check], seconds: float = RUNG_SECONDS
) -> Iterator[CheckResult]:
    """
    Climb *steps* one by one, each for *seconds* at most; never raises.

    *steps* may be made as they are climbed, of what those before have found.
    """
    deadlines = Deadlines()
    broken: set[str] = set()
    for step in steps:
        missing = [name for name in step.needs if name in broken]
        if missing:
            rung = CheckResult(
                step.name, State.SKIPPED, f"needs {' and '.join(missing)}"
            )
        else:
            rung = _climbed(step, deadlines, seconds)
        if rung.state in {State.FAILED, State.SKIPPED}:
            broken.add(step.name)
        yield rung


def _climbed(step: Check, deadlines: Deadlines, seconds: float) -> CheckResult:
    try:
        found = deadlines.within(
            seconds, step.look, name=step.name, late=BackendUnavailableError
        )
    except ConfigurationError as e:
        said = "; ".join(str(refusal) for refusal in e.refusals)
    except HotWalletError as e:
        said = f"{e.code}: {e}"
    except Exception as e:  # noqa: BLE001  A doctor looks at what is broken.
        # What it says may be anything; its class is a name.
        said = f"{HotWalletError.code}: {type(e).__name__}"
    else:
        return CheckResult(step.name, found.state, sanitize(found.said), found.cure)
    return CheckResult(step.name, State.FAILED, sanitize(said), step.cure)
