"""
The whole system as processes, for tests that kill them and inject faults.

::

    with Laboratory(home, database_url, seed=7) as lab:
        gateway = lab.start_gateway(Load("random"))
        ...                      # kill processes, inject faults
        lab.settle(gateway)      # all refunds final within a minute of the last fault
        lab.assert_no_violations()

``chain``, ``device`` and ``database`` have the plans of the fault proxies before them.
"""

import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from api.auth.dev_tokens import provide_signing_key
from signer.config.settings import Role
from signer.model.audit_record import Record
from tests.api.commands import Finished
from tests.crash.admin_client import AdminClient
from tests.crash.command_process import run_command
from tests.crash.crash_points import CRASH_AT, CRASH_MARKERS, reached
from tests.crash.dependencies import (
    COIN_FUNDS,
    DECIMALS,
    FUNDS,
    Chain,
    Device,
    database_proxy,
    environment,
    kms_device,
    running_chain,
    softhsm_device,
)
from tests.crash.evidence import COIN, Evidence
from tests.crash.fault_plan import Plan
from tests.crash.gateway_process import Load, run_gateway
from tests.crash.host import run_service_host
from tests.crash.invariants import violations
from tests.crash.journal import Entry, read_journal
from tests.crash.json_rpc_client import (
    Asset,
    JSONRPCClient,
    deploy_contract,
    run_client,
)
from tests.crash.read_chain import (
    read_balance,
    read_calls,
    read_coin,
    read_marks,
    read_sent,
    read_token_fees,
    read_transfers,
)
from tests.crash.read_store import (
    read_audit,
    read_batches,
    read_keys,
    read_rows,
    read_signed,
    read_skipped,
    read_steps,
    reading,
)
from tests.crash.signing_process import run_signing
from tests.crash.supervisor import Program, Supervisor
from tests.crash.vault_rules import VaultRules
from tests.support.conformance.check import check_conformance
from tests.support.forkserver import FORK_SERVER
from tests.support.invariants import FINAL


SETTLE_SECONDS = 60.0
"""G2: the longest time from the last fault until every refund is final."""

COMMANDS = "commands"
"""The program whose log is that of commands."""

_START_SECONDS = 60.0
_COMMAND_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Size:
    """The number of hosts, and of processes of each kind per host."""

    hosts: int = 2
    web_workers: int = 2
    workers: int = 1


class Laboratory:
    """
    See the module.  Use it from one thread.

    Args:
        home: An empty folder for logs, token and journals.
        database_url: An empty database; SQLite or PostgreSQL.
        seed: The seed of the test's faults; messages of failures repeat it.
        size: The number of hosts and processes.
        roles: The roles of the servers, each with a port of its own.
        crash_at: The points to arm, from ``crash_points.names``.
        use_kms: Sign with a KMS instead of a SoftHSM token.
        proxy_database: Put a fault proxy before PostgreSQL too.
        spares: The number of further keys to rotate to; all are funded.
        stuck_after: The seconds after which the fees of a transaction are raised.
        confirmations: Those of a final block.
        per_batch: How many refunds a vault pays with one transaction; without one, 0.
        kind: That of the network: with "arc" or "tempo" the token pays for gas.
        uses_geth: The node is geth, with a block every two seconds, instead of anvil.
        policy: The operator's rules of the policy.
        settings: Additional environment variables of the service.
    """

    chain: Chain
    device: Device
    database: Plan
    rules: VaultRules | None = None

    def __init__(
        self,
        home: Path,
        database_url: str,
        *,
        seed: int,
        size: Size | None = None,
        roles: Sequence[Role] = (Role.REFUNDS, Role.ADMIN),
        crash_at: Sequence[str] = (),
        use_kms: bool = False,
        proxy_database: bool = False,
        spares: int = 0,
        stuck_after: int = 5,
        confirmations: int = 2,
        per_batch: int = 0,
        kind: str | None = None,
        uses_geth: bool = False,
        policy: str = "",
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.seed = seed
        self.supervisor = Supervisor(home)
        self.home = home
        self.database_url = database_url
        self._size = size or Size()
        self._roles = roles
        self._use_kms = use_kms
        self._proxy_database = proxy_database
        self._spares = spares
        self._stuck_after = stuck_after
        self._confirmations = confirmations
        self._per_batch = per_batch
        self._kind = kind
        self._uses_geth = uses_geth
        self._cleanup = ExitStack()
        self.stop_event = FORK_SERVER.Event()
        self._markers = home / "markers"
        self.environ = {
            **environment(home),
            "DATABASE_URL": database_url,
            CRASH_AT: " ".join(crash_at),
            CRASH_MARKERS: str(self._markers),
            **(settings or {}),
        }
        self._policy = policy
        self.token_key = Path(self.environ["JWT_SIGNING_KEY_FILE"])

    def __enter__(self) -> Self:
        """Start everything, and wait until it is ready."""
        try:
            self._start()
        except BaseException:
            self._cleanup.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End everything."""
        self._cleanup.close()

    def _start(self) -> None:
        self._markers.mkdir(parents=True)
        enter, environ = self._cleanup.enter_context, self.environ
        enter(self.supervisor)
        if self._policy:
            folder = self.home / "policy"
            folder.mkdir()
            (folder / "rules.cedar").write_text(self._policy, encoding="utf-8")
            environ["POLICY_DIR"] = str(folder)
        provide_signing_key(self.token_key, Path(environ["JWT_PUBLIC_KEY_FILE"]))
        networks_file = Path(environ["NETWORKS_FILE"])
        self.chain = enter(
            running_chain(
                networks_file,
                self._stuck_after,
                self._confirmations,
                kind=self._kind,
                uses_geth=self._uses_geth,
            )
        )
        if self._use_kms:
            self.device = enter(kms_device(self._spares))
        else:
            self.device = softhsm_device(environ, self._spares)
        environ.update(self.device.environ)
        if self._per_batch:
            # What waits for a place of the window is in one batch later.
            vault = self.chain.add_vault(
                *self.wallets, max_batch=self._per_batch, max_in_flight=2
            )
            self.rules = VaultRules(vault, self.wallets, self.seed)
        self.chain.fund(*self.wallets)
        if self._proxy_database:
            proxy = enter(database_proxy(self.database_url))
            environ["DATABASE_URL"], self.database = proxy
        self._listeners = {
            role: enter(socket.create_server(("127.0.0.1", 0), backlog=512))
            for role in self._roles
        }
        self.start_hosts()

    def start_hosts(self) -> None:
        """Start the hosts, and wait until they are ready."""
        web = {"WEB_CONCURRENCY": str(self._size.web_workers)}
        for host in self._hosts:
            self.supervisor.start(
                Program(
                    host,
                    run_service_host,
                    {**self.environ, **web},
                    (self._size.workers, self._listeners),
                )
            )
        started = self.wait(self._is_ready, _START_SECONDS)
        assert started, self.explain("the service did not start")

    def kill_hosts(self) -> None:
        """Kill all processes of the service; requests wait until it starts again."""
        for host in self._hosts:
            self.supervisor.stop(self.supervisor.programs[host])

    @property
    def logs(self) -> tuple[Path, ...]:
        return tuple(map(self.supervisor.log, self._hosts))

    @property
    def _hosts(self) -> tuple[str, ...]:
        return tuple(f"host-{number}" for number in range(self._size.hosts))

    @property
    def port(self) -> int:
        """The port for refunds, which all their processes share."""
        return self._port(Role.REFUNDS)

    @property
    def admin_port(self) -> int:
        """The port for administration, which all its processes share."""
        return self._port(Role.ADMIN)

    def _port(self, role: Role) -> int:
        return int(self._listeners[role].getsockname()[1])

    @property
    def wallets(self) -> tuple[str, ...]:
        """The addresses of all keys, the first key's first."""
        return tuple(key.address for key in (self.device.key, *self.device.spares))

    def admin_client(self) -> AdminClient:
        """Return a new client for an administrator's requests."""
        return AdminClient(self.admin_port, self.token_key)

    def start_gateway(self, load: Load) -> Program:
        """Start a process that requests refunds until ``settle``."""
        journal = self.home / f"{load.series}.journal"
        arguments = (self.port, self.token_key, journal, load, self.stop_event)
        return self._start_once(f"gateway-{load.series}", run_gateway, arguments)

    def start_json_rpc_client(
        self, load: Load, assets: Sequence[Asset] = tuple(Asset)
    ) -> Program:
        """Start a process that sends *assets* through JSON-RPC until ``settle``."""
        deploy_contract(self.chain.rpc)
        client = JSONRPCClient(
            f"http://127.0.0.1:{self._port(Role.SIGN)}/rpc",
            self.token_key,
            self.chain.token,
            None if self._spares else self.wallets[0],
            assets,
        )
        journal = self.home / f"{load.series}.journal"
        arguments = (client, journal, load, self.stop_event)
        return self._start_once(f"json-rpc-{load.series}", run_client, arguments)

    def start_signing(self, per_second: float, journal: Path) -> Program:
        """Start a process that signs digests with the active key until ``settle``."""
        arguments = (per_second, journal, self.stop_event)
        return self._start_once("signing", run_signing, arguments)

    def run_command(self, *arguments: str, **environ: str) -> Finished:
        """Run ``hotwallet``, and return its result; its log is kept."""
        out = self.home / "command.out"
        log = self.supervisor.log(COMMANDS)
        before = log.stat().st_size if log.exists() else 0
        settings = {"HOTWALLET_NO_ENV_FILE": "1", **environ}
        program = self.supervisor.start(
            Program(
                COMMANDS,
                run_command,
                {**self.environ, **settings},
                (arguments, out),
                restarts=False,
            )
        )
        program.process.join(_COMMAND_SECONDS)
        with log.open("rb") as written:
            written.seek(before)
            err = written.read().decode()
        return Finished(program.process.exitcode, out.read_text(), err)

    def _start_once(
        self, name: str, work: Callable[..., None], arguments: tuple[Any, ...]
    ) -> Program:
        return self.supervisor.start(
            Program(name, work, self.environ, arguments, restarts=False)
        )

    def sleep(self, seconds: float) -> None:
        """Restart dead processes for *seconds*."""
        deadline = time.monotonic() + seconds
        self.supervisor.restart_dead()
        while (remaining := deadline - time.monotonic()) > 0:
            time.sleep(min(0.05, remaining))
            self.supervisor.restart_dead()

    def wait(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Return whether *condition* becomes true in *seconds*."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                return False
            self.sleep(0.1)
        return True

    def settle(self, *clients: Program) -> float:
        """
        Stop new requests, and wait until all refunds of *clients* are final.

        Returns:
            The seconds that this took.

        Raises:
            AssertionError: It took more than a minute.
        """
        began = time.monotonic()
        self.stop_event.set()
        settled = self.wait(
            lambda: not any(client.is_alive for client in clients), SETTLE_SECONDS
        )
        assert settled, self.explain(self.violations())
        for client in clients:
            assert client.process.exitcode == 0, self.explain(f"see {client.name}.log")
        return time.monotonic() - began

    def await_final(self) -> None:
        """Wait until all payments are final, also those that no client watches."""

        def are_final() -> bool:
            with reading(self.database_url) as store:
                return all(row.status in FINAL for row in read_rows(store))

        assert self.wait(are_final, SETTLE_SECONDS), self.explain(self.violations())

    def crash_points(self) -> set[str]:
        """Return the armed points that have killed a process."""
        return reached(self._markers)

    def journal(self) -> tuple[Entry, ...]:
        files = sorted(self.home.glob("*.journal"))
        return tuple(entry for file in files for entry in read_journal(file))

    def evidence(self) -> Evidence:
        """Read chain, store, journals and the device's log."""
        rpc, token, wallets = self.chain.rpc, self.chain.token, self.wallets
        rules = self.rules
        payers = wallets if rules is None else (*wallets, rules.vault.address)
        contracts = (token, *payers[len(wallets) :])
        coin = COIN_FUNDS * len(wallets) - read_coin(rpc, *wallets)
        tokens = sum(FUNDS - read_balance(rpc, token, each) for each in payers)
        spent = {token.lower(): tokens, COIN: coin}
        if self._kind == "arc":
            spent = {token.lower(): coin // 10 ** (18 - DECIMALS)}
        elif self._kind == "tempo":
            spent = {token.lower(): tokens - read_token_fees(rpc, *wallets)}
        with reading(self.database_url) as store:
            return Evidence(
                decimals=DECIMALS,
                journal=self.journal(),
                transfers=sum((read_transfers(rpc, each) for each in payers), ())
                + read_calls(rpc, contracts, *wallets),
                sent=read_sent(rpc, *wallets),
                rows=read_rows(store),
                signed=read_signed(store),
                steps=read_steps(store),
                spent=spent,
                used=dict(self.device.used),
                audit=read_audit(store),
                keys=read_keys(store),
                batches=read_batches(store),
                skipped=read_skipped(store),
                marks=() if rules is None else read_marks(rpc, rules.vault.address),
                blocked=frozenset() if rules is None else frozenset(rules.blocked),
                is_reorganised=rules is not None and rules.reorganisations > 0,
            )

    def violations(self) -> list[str]:
        return violations(self.evidence())

    def assert_no_violations(self) -> None:
        """Fail if an invariant is violated, or the audit log is no trace of ours."""
        evidence = self.evidence()
        found = violations(evidence)
        assert found == [], self.explain(found)
        conformance = check_conformance(
            Record(each.id, each.body) for each in evidence.audit
        )
        assert conformance.is_good, self.explain(conformance.violations)
        assert conformance.signatures > 0, self.explain("nothing was signed")

    def assert_reached(self, points: Iterable[str]) -> None:
        """Fail unless each of *points* has killed a process."""
        missing = set(points) - self.crash_points()
        assert not missing, self.explain(f"not reached: {sorted(missing)}")

    def explain(self, problem: object) -> str:
        """Return *problem* with the seed and the folder of logs."""
        return f"seed {self.seed}: {problem}; logs and journals: {self.home}"

    def _is_ready(self) -> bool:
        return all(map(_is_ready, map(self._port, self._roles)))


def _is_ready(port: int) -> bool:
    ready = b"GET /readyz HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n"
    try:
        with socket.create_connection(("127.0.0.1", port), 5) as connection:
            connection.sendall(ready)
            return connection.recv(64).startswith(b"HTTP/1.1 200")
    except OSError:
        return False
