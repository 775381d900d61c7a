"""
A whole system that is made to suffer, and a judge that saw everything.

::

    with Laboratory(home, database_url, seed=7) as lab:
        driver = lab.drive("random", concurrency=20)
        ...                     # kill, cut off, starve
        lab.settle(driver)      # all final within a minute of the last fault
        assert lab.violations() == []

Chain, KMS, database, hosts and the gateway are processes of their own, and ``chain``,
``key`` and ``database`` have the plans of the fault proxies before them.
"""

import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from api.auth.dev_tokens import provide_signing_key
from tests.crash.control import RemotePlan
from tests.crash.evidence import Evidence
from tests.crash.invariants import violations
from tests.crash.journal import Entry, read_journal
from tests.crash.points import CRASH_AT, CRASH_MARKERS, reached
from tests.crash.read_audit import read_audit, read_keys
from tests.crash.read_chain import read_balance, read_sent, read_transfers
from tests.crash.read_store import (
    read_rows,
    read_signed,
    read_steps,
    reading,
)
from tests.crash.supervisor import Program, Supervisor
from tests.crash.surroundings import (
    DECIMALS,
    FUNDS,
    Chain,
    Key,
    database_proxy,
    environment,
    kms_key,
    running_chain,
    softhsm_key,
)


SETTLE_SECONDS = 60.0
"""G2: how long after the last fault everything accepted is final."""

_START_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Size:
    """How many hosts, and how many processes of a kind on each."""

    hosts: int = 2
    web_workers: int = 2
    workers: int = 1


class Laboratory:
    """
    See the module.  Use it from one thread.

    Args:
        home: An empty folder for logs, token and journals.
        database_url: An empty database; SQLite or PostgreSQL.
        seed: What a failure's message repeats.
        size: How much of it there is.
        crash_at: The points to arm, as ``points.names`` gives them.
        use_kms: Sign with a KMS behind a proxy; else in a SoftHSM token.
        shield_database: False puts a proxy before PostgreSQL, too.
        spares: How many keys there are, besides, to rotate to; all are funded.
        settings: Environment variables of the service, on top of the usual ones.
    """

    chain: Chain
    key: Key
    database: RemotePlan

    def __init__(
        self,
        home: Path,
        database_url: str,
        *,
        seed: int,
        size: Size | None = None,
        crash_at: Sequence[str] = (),
        use_kms: bool = False,
        shield_database: bool = True,
        spares: int = 0,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.seed = seed
        self.supervisor = Supervisor(home)
        self._home = home
        self._database_url = database_url
        self._size = size or Size()
        self._use_kms = use_kms
        self._shield_database = shield_database
        self._spares = spares
        self._cleanup = ExitStack()
        self._markers = home / "markers"
        self._environ = {
            **environment(home),
            "DATABASE_URL": database_url,
            CRASH_AT: " ".join(crash_at),
            CRASH_MARKERS: str(self._markers),
            **(settings or {}),
        }

    def __enter__(self) -> Self:
        """Start everything, and wait until it is ready."""
        try:
            self._start()
        except BaseException:
            self._cleanup.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End everything."""
        self._cleanup.close()

    def _start(self) -> None:
        self._markers.mkdir(parents=True)
        enter, environ = self._cleanup.enter_context, self._environ
        enter(self.supervisor)
        provide_signing_key(
            Path(environ["JWT_SIGNING_KEY_FILE"]), Path(environ["JWT_PUBLIC_KEY_FILE"])
        )
        self.chain = enter(running_chain(Path(environ["NETWORKS_FILE"])))
        if self._use_kms:
            self.key = enter(kms_key(self._spares))
        else:
            self.key = softhsm_key(environ, self._spares)
        environ.update(self.key.environ)
        self.chain.fund(*self.wallets)
        if not self._shield_database:
            through = enter(
                database_proxy(self.supervisor, self._database_url, environ)
            )
            environ["DATABASE_URL"], self.database = through
        self._listener = enter(socket.create_server(("127.0.0.1", 0), backlog=512))
        self._start_hosts()
        started = self.wait(self._is_ready, _START_SECONDS)
        assert started, self.explain("the service did not start")

    def _start_hosts(self) -> None:
        number = self._listener.fileno()
        web = {"BIND": f"fd://{number}", "WEB_CONCURRENCY": str(self._size.web_workers)}
        for host in range(self._size.hosts):
            self.supervisor.start(
                Program(
                    f"host-{host}",
                    ["tests.crash.host", str(self._size.workers)],
                    {**self._environ, **web},
                    pass_fds=[number],
                )
            )

    @property
    def port(self) -> int:
        """Where the API listens, whoever of its processes lives."""
        return int(self._listener.getsockname()[1])

    @property
    def wallets(self) -> tuple[str, ...]:
        """The addresses that may pay, the first key's before the spare ones'."""
        return (self.key.address, *(spare.address for spare in self.key.spares))

    @property
    def home(self) -> Path:
        """Where the logs and journals are."""
        return self._home

    @property
    def environ(self) -> Mapping[str, str]:
        """The environment that the service lives in."""
        return self._environ

    @property
    def database_url(self) -> str:
        """The database itself, past any proxy."""
        return self._database_url

    def drive(
        self,
        series: str,
        *,
        count: int | None = None,
        concurrency: int = 20,
        copies: int = 1,
        per_second: float | None = None,
    ) -> Program:
        """Start a gateway; without *count* it asks until ``settle``."""
        options: dict[str, object] = {
            "port": self.port,
            "journal": self._home / f"{series}.journal",
            "token-key": self._environ["JWT_SIGNING_KEY_FILE"],
            "series": series,
            "concurrency": concurrency,
            "copies": copies,
        }
        if count is not None:
            options["count"] = count
        if per_second is not None:
            options["per-second"] = per_second
        flags = [f"--{name}={value}" for name, value in options.items()]
        driver = ["tests.crash.driver", *flags]
        return self.supervisor.start(
            Program(f"driver-{series}", driver, self._environ, kept=False)
        )

    def sleep(self, seconds: float) -> None:
        """Let time pass, and restart what dies in it."""
        deadline = time.monotonic() + seconds
        self.supervisor.tend()
        while (remaining := deadline - time.monotonic()) > 0:
            time.sleep(min(0.05, remaining))
            self.supervisor.tend()

    def wait(self, happened: Callable[[], bool], seconds: float) -> bool:
        """Wait until *happened*, for *seconds* at most; say whether it did."""
        deadline = time.monotonic() + seconds
        while not happened():
            if time.monotonic() > deadline:
                return False
            self.sleep(0.1)
        return True

    def settle(self, driver: Program) -> float:
        """
        Ask for no more, and wait for what was asked for.

        Returns:
            Seconds from now until everything that *driver* asked for was final.

        Raises:
            AssertionError: That took more than a minute.
        """
        began = time.monotonic()
        assert driver.process.stdin
        driver.process.stdin.close()
        settled = self.wait(lambda: not driver.is_alive, SETTLE_SECONDS)
        assert settled, self.explain(self.violations())
        assert driver.process.wait() == 0, self.explain(f"see {driver.name}.log")
        return time.monotonic() - began

    def crash_points(self) -> set[str]:
        """Return the armed points that somebody has died of."""
        return reached(self._markers)

    def journal(self) -> tuple[Entry, ...]:
        """Return what all gateways wrote down."""
        files = sorted(self._home.glob("*.journal"))
        return tuple(entry for file in files for entry in read_journal(file))

    def evidence(self) -> Evidence:
        """Ask chain, store, journals and logs for all they know."""
        rpc, token, wallets = self.chain.rpc, self.chain.token, self.wallets
        with reading(self._database_url) as store:
            return Evidence(
                wallets=frozenset(wallet.lower() for wallet in wallets),
                decimals=DECIMALS,
                journal=self.journal(),
                transfers=sum((read_transfers(rpc, each) for each in wallets), ()),
                sent=read_sent(rpc, *wallets),
                rows=read_rows(store),
                signed=read_signed(store),
                steps=read_steps(store),
                spent={
                    token.lower(): sum(
                        FUNDS - read_balance(rpc, token, each) for each in wallets
                    )
                },
                used=dict(self.key.used),
                audit=read_audit(store),
                keys=read_keys(store),
            )

    def violations(self) -> list[str]:
        """Return what must never happen, and did."""
        return violations(self.evidence())

    def explain(self, problem: object) -> str:
        """Return a failure's message: how to run it again, and where to look."""
        return f"seed {self.seed}: {problem}; logs and journals: {self._home}"

    def _is_ready(self) -> bool:
        ready = b"GET /readyz HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n"
        try:
            with socket.create_connection(("127.0.0.1", self.port), 5) as connection:
                connection.sendall(ready)
                return connection.recv(64).startswith(b"HTTP/1.1 200")
        except OSError:
            return False
