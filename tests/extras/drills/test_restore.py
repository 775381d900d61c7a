"""``hotwallet drill restore`` on a stack whose database is replaced."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGTERM
from tempfile import TemporaryDirectory

import apsw
import psycopg
import pytest

from api.extras.drills.runbooks import steps_of
from dev.stack import Stack, is_ready, running_stack
from tests.extras.drills.people import Act
from tests.extras.drills.playing import Staging
from tests.fixtures.postgresql import PostgreSQL
from tests.fixtures.roles import DOCKER, Roles, run_sql_file
from tests.support.forked_processes import ForkedHotWallet
from tests.support.servers import memory_folder
from tests.support.waiting import eventually


@dataclass
class Database:
    """
    A database in whose *folder* an operator types what the guide has.

    *backup* is the file that the guide's commands write and read.  The service has the
    variables *service*, the drill *admin*, and the operator *variables*.
    """

    folder: Path
    backup: str
    service: Mapping[str, str] = field(default_factory=dict)
    admin: Mapping[str, str] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
    programs: Path | None = None

    def follow(self, name: str, environ: Mapping[str, str]) -> None:
        """Run the commands of the guide's step *name*."""
        (step,) = (each for each in steps_of("restore") if each.name == name)
        lines = [line.removeprefix("$ ") for line in step.example.splitlines() if line]
        if self.programs is None:
            _, _, text = step.text.partition("SQLite")
            lines = re.findall("`([^`]+)`", text.partition("PostgreSQL")[0])
        elif not lines:
            lines = [
                f'psql "$ADMIN_URL" --command "{each}"'
                for each in re.findall("`(ALTER DATABASE [^`]+)`", step.text)
            ]
        assert lines
        script = "\n".join(lines).replace("/opt/hotwallet/src/docker", str(DOCKER))
        subprocess.run(
            ["sh", "-ec", script],
            env={
                **environ,
                **self.variables,
                "PATH": f"{self.programs}:{environ['PATH']}",
            },
            cwd=self.folder,
            check=True,
            timeout=120,
        )

    def prepare(self, stack: Stack) -> None:
        """Make the tables of a service, as in the guide of production."""
        if self.programs is not None:
            stack.command("db", "upgrade")
            run_sql_file(DOCKER / "grants.sql", self.variables["PGURL"])

    def back_up(self, environ: Mapping[str, str]) -> None:
        if self.programs is not None:
            self.follow("back-up", environ)
            return
        # As the program sqlite3 of the guide, which not every machine has.
        with (
            closing(apsw.Connection(str(self.folder / "hotwallet.db"))) as source,
            closing(apsw.Connection(str(self.folder / self.backup))) as target,
            target.backup("main", source, "main") as copying,
        ):
            copying.step()


@contextmanager
def _sqlite(home: Path) -> Iterator[Database]:
    yield Database(home, "copy.db")


@contextmanager
def _postgresql(home: Path) -> Iterator[Database]:
    """Yield a database of a server of its own, with the roles that are shipped."""
    prefix, where = "hotwallet-drill-", memory_folder()
    with (
        TemporaryDirectory(prefix=prefix, dir=where) as folder,
        PostgreSQL(Path(folder)) as server,
    ):
        with psycopg.connect(server.url(), autocommit=True) as connection:
            connection.execute("CREATE DATABASE hotwallet")
        roles = Roles(server.url("hotwallet"))
        run_sql_file(DOCKER / "roles.sql", roles.superuser)
        owner, admin = (
            {"DATABASE_URL": url.replace("postgresql:", "postgresql+psycopg:")}
            for url in (roles.owner, roles.admin)
        )
        operator = {
            **owner,
            "PGURL": roles.owner,
            "ADMIN_URL": server.url(),
        }
        programs = server.programs
        yield Database(home, "ledger.dump", owner, admin, operator, programs)


class Host:
    """The only host of a stack, with what an operator does there."""

    def __init__(self, stack: Stack, folder: Path, services: ExitStack) -> None:
        self._stack = stack
        self._services = services
        self.log = folder / "host.log"

    def stop(self, *names: str) -> None:
        for name in names:
            self._stack.processes[name].send_signal(SIGTERM)
            self._stack.processes[name].wait(30)

    def collect(self, *names: str) -> None:
        logs = [self._stack.home / f"{name}.log" for name in names]
        self.log.write_bytes(b"".join(each.read_bytes() for each in logs))

    def start(self) -> None:
        for name in ("serve", "worker"):
            self._services.enter_context(self._stack.service(name, log=f"{name}-again"))
        assert eventually(lambda: is_ready(self._stack.url), 60)


@pytest.mark.parametrize("made", [_sqlite, _postgresql])
def test_a_stale_backup_is_found_and_nothing_is_paid_twice(
    tmp_path: Path, made: Callable[[Path], AbstractContextManager[Database]]
) -> None:
    """
    The drill finds an API and a worker that run on, an old backup, and no restore.

    The operator types the guide's commands.  The drill has the settings of ``admin``.
    """
    home = tmp_path / "home"
    with (
        made(home) as database,
        running_stack(
            home,
            settings={"WEB_CONCURRENCY": "1", **database.service},
            program=ForkedHotWallet(),
            prepare=database.prepare,
        ) as stack,
        ExitStack() as services,
    ):
        host = Host(stack, tmp_path, services)
        backup, stale = home / database.backup, tmp_path / "stale"
        good = tmp_path / "good"
        database.back_up(os.environ)
        backup.rename(stale)
        people: dict[str, Act] = {
            "back-up": database.back_up,
            "stop-service": lambda _: None,
            "keep-broken": lambda drill: database.follow("keep-broken", drill),
            "put-back": lambda drill: database.follow("put-back", drill),
            "collect-log": lambda _: host.collect("serve", "worker"),
            "start-service": lambda _: host.start(),
            "tell-gateway": lambda _: None,
        }
        given = {"LOG": str(host.log)}
        drill = Staging(stack, tmp_path, "restore", people, given, database.admin)

        drill.require_failure("stop-service", patience=15)
        people["stop-service"] = lambda _: host.stop("serve")
        drill.require_failure("stop-service", patience=1)
        people["stop-service"] = lambda _: host.stop("serve", "worker")
        backup.rename(good)
        shutil.copy(stale, backup)
        drill.require_failure("put-back")
        assert "older than the drill" in drill.evidence["steps"][-1]["problem"]
        good.rename(backup)
        people["put-back"] = _again(database)
        drill.false = ("restore*", "exit 0")
        drill.require_failure("restore")
        drill.false = None
        ran = drill.play()

        assert ran.returncode == 0, ran.stdout + ran.stderr
        drill.require_recorded("succeeded")


def _again(database: Database) -> Act:
    """Return who takes the wrong copy away, and puts another one back."""

    def act(drill: Mapping[str, str]) -> None:
        if database.programs is not None:
            with psycopg.connect(
                database.variables["ADMIN_URL"], autocommit=True
            ) as connection:
                connection.execute("DROP DATABASE hotwallet")
        database.follow("put-back", drill)

    return act
