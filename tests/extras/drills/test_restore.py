"""``hotwallet drill restore`` on a stack whose database is replaced."""

import contextlib
import shutil
import sqlite3
from contextlib import ExitStack, closing
from pathlib import Path
from signal import SIGTERM

from dev.stack import Stack, is_ready, running_stack
from tests.extras.drills.people import Act
from tests.extras.drills.playing import Staging
from tests.support.forked_processes import ForkedHotWallet
from tests.support.waiting import eventually


class Host:
    """The only host of a stack, with what an operator does there."""

    def __init__(self, stack: Stack, folder: Path, services: ExitStack) -> None:
        self._stack = stack
        self._services = services
        self._database = stack.home / "hotwallet.db"
        self.copy, self.log = folder / "copy.db", folder / "host.log"

    def back_up(self) -> None:
        with (
            closing(sqlite3.connect(self._database)) as source,
            closing(sqlite3.connect(self.copy)) as target,
        ):
            source.backup(target)

    def stop(self, *names: str) -> None:
        for name in names:
            self._stack.processes[name].send_signal(SIGTERM)
            self._stack.processes[name].wait(30)

    def keep_broken(self) -> None:
        broken = self._stack.home / "broken"
        broken.mkdir(exist_ok=True)
        for path in self._stack.home.glob("hotwallet.db*"):
            with contextlib.suppress(FileNotFoundError):
                path.rename(broken / path.name)

    def put_back(self) -> None:
        shutil.copyfile(self.copy, self._database)
        self._database.chmod(0o600)
        self._stack.command("db", "upgrade")

    def collect(self, *names: str) -> None:
        logs = [self._stack.home / f"{name}.log" for name in names]
        self.log.write_bytes(b"".join(each.read_bytes() for each in logs))

    def start(self) -> None:
        for name in ("serve", "worker"):
            self._services.enter_context(self._stack.service(name, log=f"{name}-again"))
        assert eventually(lambda: is_ready(self._stack.url), 60)


def test_a_stale_backup_is_found_and_nothing_is_paid_twice(tmp_path: Path) -> None:
    """
    The drill finds an API and a worker that run on, an old backup, and no restore.
    """
    with (
        running_stack(
            tmp_path / "home",
            settings={"WEB_CONCURRENCY": "1"},
            program=ForkedHotWallet(),
        ) as stack,
        ExitStack() as services,
    ):
        host = Host(stack, tmp_path, services)
        host.back_up()
        stale = host.copy.rename(tmp_path / "stale.db")
        people: dict[str, Act] = {
            "back-up": lambda _: host.back_up(),
            "stop-service": lambda _: None,
            "keep-broken": lambda _: host.keep_broken(),
            "put-back": lambda _: host.put_back(),
            "collect-log": lambda _: host.collect("serve", "worker"),
            "start-service": lambda _: host.start(),
            "tell-gateway": lambda _: None,
        }
        drill = Staging(stack, tmp_path, "restore", people, {"LOG": str(host.log)})

        drill.require_failure("stop-service", patience=15)
        people["stop-service"] = lambda _: host.stop("serve")
        drill.require_failure("stop-service", patience=1)
        people["stop-service"] = lambda _: host.stop("serve", "worker")
        good, host.copy = host.copy, stale
        drill.require_failure("put-back")
        assert "older than the drill" in drill.evidence["steps"][-1]["problem"]
        host.copy = good
        drill.false = ("restore*", "exit 0")
        drill.require_failure("restore")
        drill.false = None
        ran = drill.play()

        assert ran.returncode == 0, ran.stdout + ran.stderr
        drill.require_recorded("succeeded")
