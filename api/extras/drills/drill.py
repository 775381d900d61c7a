"""Plays the steps of a runbook, measures them, and writes the evidence."""

import hashlib
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import urllib3

from api.bootstrap import build_container
from api.cli.operator import current_operator
from api.cli.staging import Deployment, require_named
from api.container import Container
from api.extras.drills.checks import CHECKS, VARIABLES, CheckFailedError, Scene
from api.extras.drills.runbooks import Step, steps_of
from api.views.values import timestamp
from signer.audit.actions import SUCCESS, AuditAction
from signer.errors import HotWalletError, InvalidInputError
from signer.model.key import KeyState
from signer.ports.clock import Clock, utc_now
from signer.private_files import write_whole
from signer.row_macs import RowMACs


_EVIDENCE = "evidence of a drill"

_BEGIN = Step("begin", "The service pays a refund before the emergency.")

Evidence = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Drill:
    """
    One emergency on the deployment at *url*, and the file of its evidence.

    *hooks* has a program for each step that a person does, named as the step; without
    it the person is asked.   A *path* that exists is continued.
    """

    name: str
    url: str
    token_file: Path
    recipient: str
    chain_ids: Collection[int]
    given: Mapping[str, str]
    hooks: Path | None
    is_sure: bool
    patience: float
    path: Path
    clock: Clock = utc_now
    evidence: Evidence = field(default_factory=dict)

    def load(self) -> bool:
        """
        Read the evidence of an earlier run; return whether there is one.

        Raises:
            InvalidInputError: The file is something else.
        """
        if not self.path.exists():
            return False
        try:
            found = json.loads(self.path.read_bytes())
            # Its facts become variables of commands.
            mac, text = found.pop("mac"), _text(found)
            is_ours = (found["drill"], found["url"]) == (self.name, self.url)
            is_ours &= self._macs.is_mac_of_text(mac, _EVIDENCE, text)
        except (ValueError, LookupError, TypeError, AttributeError):
            is_ours = False
        if not is_ours:
            problem = (
                "exists, and is no evidence of this drill that this service wrote:"
                " choose another file"
            )
            raise InvalidInputError(problem, field="--out")
        self.evidence.update(found)
        return True

    def require_possible(self) -> None:
        """
        Require what the drill needs, and that it moves no real money.

        Raises:
            InvalidInputError: A variable or a hook is missing, or the service pays on
                another chain than the named ones.
        """
        for name, meaning in VARIABLES[self.name].items():
            if name not in self.given:
                raise InvalidInputError(f"needs {name}, {meaning}", field="--set")
        with self._scene() as scene:
            chains = {each.chain_id for each in scene.container.networks.values()}
            require_named(chains, self.chain_ids)
            if not self._passed:  # In the middle the service may be down.
                token = scene.deployment.token
                scene.deployment.require_test_chains(
                    self.chain_ids, "--token-file", token
                )
            for step in self._applicable(scene.container):
                if self.is_sure and not step.command and self._hook(step) is None:
                    problem = f"needs a program {step.name}, since a person does that"
                    raise InvalidInputError(problem, field="--hooks")

    def begin(self) -> str:
        """Begin, or continue what ``load`` has read; return what is done."""
        now = timestamp(self.clock())
        if "result" in self.evidence:
            return "the drill has ended: its evidence is recorded again"
        if self.evidence:
            self.evidence["continued"].append(now)
            self._save()
            return f"continues the run of {self.evidence['began']}"
        with self._opened() as container:
            run, actor = secrets.token_hex(4), current_operator()
            container.administration.request(
                AuditAction.DRILL_RUN, actor, drill=self.name, run=run
            )
            self.evidence.update(
                drill=self.name,
                run=run,
                url=self.url,
                service=container.settings.audit_origin,
                environment=str(container.settings.app_env),
                chains={name: n.chain_id for name, n in container.networks.items()},
                version=version("hotwallet"),
                began=now,
                continued=[],
                facts={"run": run, "began": now},
                steps=[],
            )
        self._save()
        return f"begins the run {run}"

    def play(self, report: Callable[[str], None]) -> bool:
        """Play the steps that have not passed; return whether all have."""
        if "result" in self.evidence:
            return bool(self.evidence["result"] == "passed")
        with self._opened() as container:
            steps = [_BEGIN, *self._applicable(container)]
        for number, step in enumerate(steps):
            if step.name in self._passed:
                continue
            report(f"{number}. {step.name}: {step.text.strip()}")
            entry = self._play(step)
            self.evidence["steps"].append(entry)
            self._save()
            for line in entry["checked"]:
                report(f"   {line}")
            report(f"   {entry['result']} in {entry['seconds']:.1f} s")
            if entry["result"] == "failed":
                report(f"   FAILED: {entry['problem']}")
                return False
        self.evidence["result"] = "passed"
        return True

    def record(self) -> str:
        """Write the evidence, and its digest into the audit log; return the digest."""
        with self._opened() as container:
            if "ended" not in self.evidence:  # What was recorded never changes.
                self.evidence["remains"] = [*_remains(container)]
                if "result" in self.evidence:
                    self.evidence["ended"] = timestamp(self.clock())
            digest = self._save()
            container.administration.write(
                AuditAction.DRILL_RUN,
                current_operator(),
                SUCCESS if "result" in self.evidence else "failed",
                drill=self.name,
                run=self.evidence["run"],
                digest=digest,
            )
        return digest

    @property
    def _passed(self) -> set[str]:
        steps = self.evidence.get("steps", ())
        return {each["step"] for each in steps if each["result"] != "failed"}

    def _applicable(self, container: Container) -> Sequence[Step]:
        has_vault = any(each.vault for each in container.networks.values())
        return [each for each in steps_of(self.name) if has_vault or not each.for_vault]

    @contextmanager
    def _opened(self) -> Iterator[Container]:
        """Open the ledger anew: a step may replace it."""
        container = build_container()
        try:
            yield container
        finally:
            if "store" in vars(container):
                container.store.close()

    @contextmanager
    def _scene(self) -> Iterator[Scene]:
        with self._opened() as container:
            token = self.token_file.read_text("utf-8").strip()  # It may be renewed.
            yield Scene(
                container,
                Deployment(self.url, token, self.recipient),
                self.evidence.get("facts", {}),
                self.given,
                self.patience,
            )

    def _play(self, step: Step) -> Evidence:
        began, checked, problem = self.clock(), list[str](), ""
        check = CHECKS[self.name].get(step.name)
        by = "the drill"
        try:
            if step is not _BEGIN:
                by = self._act(step)
            if check is not None:
                with self._scene() as scene:
                    for each in check(scene):
                        checked.append(each)
                        self._save()  # What it found is known after a kill, too.
        except CheckFailedError as e:
            problem = str(e)
        except HotWalletError as e:
            problem = f"{e.code}: {e}"
        except (urllib3.exceptions.HTTPError, OSError) as e:
            problem = f"no answer ({type(e).__name__})"
        ended = self.clock()
        done = "passed" if check or step.command else "not checked"
        return {
            "step": step.name,
            "by": by,
            "operator": current_operator().name,
            "command": step.command,
            "began": timestamp(began),
            "ended": timestamp(ended),
            "seconds": (ended - began).total_seconds(),
            "result": "failed" if problem else done,
            "checked": checked,
            **({"problem": problem} if problem else {}),
        }

    def _act(self, step: Step) -> str:
        """Let the step be done; return by whom."""
        hook = self._hook(step)
        if step.command:
            if not self.is_sure:
                click.confirm(f"Run: {step.command}", abort=True, err=True)
            self._run(["sh", "-c", step.command + " --yes" * step.asks], step.name)
            return "the command"
        if hook is not None:
            self._run([str(hook)], step.name)
            return "a program of --hooks"
        click.echo(step.example, err=True)
        click.confirm("Is it done?", abort=True, err=True)
        return "a person"

    def _run(self, arguments: Sequence[str], name: str) -> None:
        facts = {key.upper(): value for key, value in self.evidence["facts"].items()}
        reason = f"drill {self.name}, run {self.evidence['run']}"
        done = subprocess.run(  # noqa: S603  The shell gets only our own runbook.
            arguments,
            env={**os.environ, **facts, **self.given, "REASON": reason},
            stdout=sys.stderr.fileno(),
            check=False,
        )
        if done.returncode:
            raise CheckFailedError(f"{name} ended with status {done.returncode}")

    def _hook(self, step: Step) -> Path | None:
        path = None if self.hooks is None else (self.hooks / step.name).absolute()
        return path if path is not None and os.access(path, os.X_OK) else None

    def _save(self) -> str:
        """Write the evidence; return its digest."""
        mac = self._macs.mac_of_text(_EVIDENCE, _text(self.evidence))
        content = _text({**self.evidence, "mac": mac}).encode() + b"\n"
        write_whole(self.path, content)
        return hashlib.sha256(content).hexdigest()

    @cached_property
    def _macs(self) -> RowMACs:
        with self._opened() as container:
            return container.row_macs


def _text(evidence: Evidence) -> str:
    return json.dumps(evidence, indent=1)


def _remains(container: Container) -> Iterator[str]:
    """Yield what the drill has changed and not put back, and what ends it."""
    if any(each.in_force for each in container.store.stops()):
        yield "signing is stopped: hotwallet resume"
    ring = container.store.keys()
    for key in ring:
        if key.state is KeyState.BLOCKED:
            yield f"{key.address} is revoked: hotwallet keys reinstate, within a day"
