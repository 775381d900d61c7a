"""Drills as processes, with evidence that is read as an auditor reads it."""

import hashlib
import json
import os
import pty
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

from dev.anvil import ROOT
from dev.stack import Stack, hotwallet
from signer.audit.checkpoints import CheckpointKey
from tests.e2e.gateway import Gateway
from tests.extras.drills.people import Act, acting
from tests.support.forked_processes import command_for_shells, run_command


RECIPIENT = "0x" + "12" * 20

# A hotwallet that does something else than it is told.
_FALSE = """\
#!/bin/sh
case "$*" in {pattern}) {instead} ;; esac
exec {program} "$@"
"""


@dataclass
class Staging:
    """A stack on which a drill is played in *folder*; *people* do steps by name."""

    stack: Stack
    folder: Path
    name: str
    people: dict[str, Act]
    given: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    false: tuple[str, str] | None = None
    """A pattern of arguments, and what `hotwallet` does instead."""

    @property
    def path(self) -> Path:
        return self.folder / f"{self.name}.json"

    @property
    def evidence(self) -> Any:
        return json.loads(self.path.read_text(encoding="utf-8"))

    def arguments(self, hooks: Path, *more: str) -> list[str]:
        token = self.folder / "merchant.token"
        token.write_text(Gateway.of(self.stack, "gateway").token, encoding="ascii")
        given = [f"--set={name}={value}" for name, value in self.given.items()]
        return [
            *("drill", self.name, "--staging", self.stack.url, *given),
            *("--token-file", str(token), "--recipient", RECIPIENT),
            *("--hooks", str(hooks), "--out", str(self.path), *more),
        ]

    def play(
        self, *more: str, chain_id: int = 31337, patience: float = 30
    ) -> CompletedProcess[str]:
        """Play the drill to its end, or to its failure."""
        hooks = self.folder / "hooks"
        with (
            command_for_shells() as commands,
            acting(hooks, self.people) as programs,
        ):
            try:
                options = ("--chain-id", str(chain_id), "--patience", str(patience))
                return run_command(
                    self.arguments(programs, *options, *(more or ["--yes"])),
                    self._environ(commands),
                )
            finally:
                for each in hooks.iterdir():
                    each.unlink()
                hooks.rmdir()

    def answer(self, *answers: str) -> CompletedProcess[str]:
        """Play it at a terminal, with *answers* to its questions."""
        ours, theirs = pty.openpty()
        os.write(ours, "".join(f"{each}\n" for each in answers).encode())
        with command_for_shells() as commands:
            try:
                return subprocess.run(
                    [
                        *(sys.executable, "-m", "api.cli"),
                        *self.arguments(self.folder, "--chain-id=31337"),
                    ],
                    env=self._environ(commands),
                    stdin=theirs,
                    capture_output=True,
                    text=True,
                    timeout=120,
                    check=False,
                    cwd=ROOT,
                )
            finally:
                os.close(ours)
                os.close(theirs)

    def _environ(self, commands: Path) -> dict[str, str]:
        program = commands / "hotwallet"
        if self.false is not None:
            pattern, instead = self.false
            real = program.rename(commands / "real")
            text = _FALSE.format(
                pattern=pattern,
                instead=instead.format(program=real),
                program=real,
            )
            program.write_text(text, encoding="utf-8")
            program.chmod(0o755)
        path = f"{commands}:{os.environ['PATH']}"
        return {**self.stack.environ, **self.settings, "PATH": path}

    def require_refusal(
        self, problem: str, *options: str, chain_id: int = 31337, **changes: Any
    ) -> None:
        """Require that nothing is done, because of a *problem*."""
        ran = replace(self, **changes).play(*options, chain_id=chain_id)
        assert ran.returncode == 2, ran.stdout + ran.stderr
        assert problem in ran.stderr
        assert not self.path.exists()

    def require_failure(self, step: str, *, patience: float = 30) -> None:
        """Play until *step*, which has to fail."""
        self.require_failed(self.play(patience=patience), step)

    def require_failed(self, ran: CompletedProcess[str], step: str) -> None:
        assert ran.returncode == 1, ran.stdout + ran.stderr
        last = self.evidence["steps"][-1]
        assert (last["step"], last["result"]) == (step, "failed"), ran.stderr

    def require_recorded(self, outcome: str) -> None:
        """Verify the log, which has the digest of the evidence, as an auditor does."""
        environ, folder = self.stack.environ, self.folder
        digest = hashlib.sha256(self.path.read_bytes()).hexdigest()
        hotwallet(environ, "audit", "checkpoint", "--new", program=self.stack.program)
        export = folder / "audit.jsonl"
        export.unlink(missing_ok=True)
        self.stack.command("audit", "export", "--out", str(export))
        key = self.stack.home / "audit.pem"
        public = folder / "audit.pub.pem"
        if not public.exists():
            public.write_bytes(CheckpointKey.load(key).public_pem())
        verified = self.stack.command(
            "audit", "verify", str(export), "--public-key", str(public)
        )
        assert verified.startswith("ok:"), verified
        lines = [
            each
            for each in export.read_text(encoding="utf-8").splitlines()
            if digest in each
        ]
        record = json.loads(lines[-1])["record"]
        assert record["event"] == f"drill-run-{outcome}"
        assert record["details"]["run"] == self.evidence["run"]
