"""
A laboratory whose database is lost, and restored as ``docs/how-to/restore.md`` says.

::

    with Restores(lab, backup) as restores:
        restores.customers.request(4)
        restores.back_up()
        restores.customers.request(4)
        restores.lose()
        restores.restore(...)    # the documented commands
        restores.settle()        # everything is final, and paid once
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Self

from tests.api.commands import Finished
from tests.crash.backups import Backup
from tests.crash.customers import Case, Customers
from tests.crash.dependencies import Wallet
from tests.crash.evidence import Transfer
from tests.crash.http_client import mint_token
from tests.crash.laboratory import COMMANDS, Laboratory
from tests.crash.miner import Miner
from tests.crash.read_chain import read_transfers
from tests.crash.read_store import read_keys, read_rows, read_signed, reading


_CHANGES = ("key_changes", "stops", "blocked_tenants", "wallets", "refunds")
_SENT = frozenset({"broadcast", "mined", "confirmed"})


class Restores:
    """
    See the module.

    Args:
        lab: A laboratory that runs.
        backup: The backup of its database.
        environ: Additional environment variables of commands.
        owner_url: The database's URL for the command that upgrades the schema.
    """

    def __init__(
        self,
        lab: Laboratory,
        backup: Backup,
        *,
        command_url: str | None = None,
        owner_url: str | None = None,
    ) -> None:
        self.lab = lab
        self._backup = backup
        self._command_url = command_url or lab.database_url
        self._owner_url = owner_url or lab.database_url
        self.customers = Customers(lab.port, lab.token_key, lab.home)
        self.miner = Miner(lab.chain.rpc)
        self._cleanup = ExitStack()

    def __enter__(self) -> Self:
        self._cleanup.callback(self._backup.close)
        self._cleanup.enter_context(self.customers)
        self._cleanup.enter_context(self.miner)
        return self

    def __exit__(self, *_: object) -> None:
        self._cleanup.close()

    def hotwallet(self, *arguments: str, **environ: str) -> Finished:
        """Run the command, and return its result; its log is kept."""
        settings = {"DATABASE_URL": self._command_url, **environ}
        return self.lab.run_command(*arguments, **settings)

    def run(self, *arguments: str, **environ: str) -> Finished:
        """Run the command, which must succeed."""
        finished = self.hotwallet(*arguments, **environ)
        assert finished.status == 0, self.lab.explain((arguments, finished))
        return finished

    def back_up(self) -> None:
        """Back the database up while it is in use."""
        self._backup.take()

    def await_sent(self, cases: Sequence[Case]) -> None:
        """Wait until the service has sent a transaction for each of *cases*."""
        keys = {case.order.key for case in cases}

        def are_sent() -> bool:
            with reading(self.lab.database_url) as store:
                rows = [row for row in read_rows(store) if row.key in keys]
            return len(rows) == len(keys) and all(row.status in _SENT for row in rows)

        assert self.lab.wait(are_sent, 30), self._explain_wallets()

    def count_replacements(self) -> int:
        """Return how many transactions replaced another one of their refund."""
        with reading(self.lab.database_url) as store:
            signed = read_signed(store)
        return len(signed) - len({each.refund_id for each in signed})

    def key_states(self) -> Mapping[str, str]:
        """Return the state of each key of the ring, by its address in lower case."""
        with reading(self.lab.database_url) as store:
            return {key.address: key.state for key in read_keys(store)}

    def active_address(self) -> str:
        """Return the address of the active key in lower case."""
        (active,) = [
            address for address, state in self.key_states().items() if state == "active"
        ]
        return active

    def rotate(self, **options: Any) -> Wallet:
        """Rotate to a key that the ring does not have yet, and return it."""
        known = self.key_states()
        device = self.lab.device
        new = next(key for key in device.spares if key.address.lower() not in known)
        response = self.lab.admin_client().rotate(new.name, **options)
        assert response.is_done, self.lab.explain(response)
        return new

    def make_gap(self) -> Sequence[Case]:
        """
        End the service while the pool has transactions above a gap.

        Returns the cases of the refunds that they pay.  No count of the chain shows
        them, and the gap is the nonce of a further refund.
        """
        rpc = self.lab.chain.rpc
        self.miner.pause()
        cases = self.customers.request(5)
        self.await_sent(cases)
        # A client without an answer would repeat its request by itself, and which one
        # comes first after the loss decides which refund fills the gap.
        assert self.customers.wait(), self._explain_wallets()
        self.lab.kill_hosts()
        (wallet,) = [
            each for each in self.lab.wallets if each.lower() == self.active_address()
        ]
        pool = rpc("txpool_content")["pending"]
        (by_nonce,) = [
            each for sender, each in pool.items() if sender.lower() == wallet.lower()
        ]
        raws = {
            int(nonce): rpc("eth_getRawTransactionByHash", each["hash"])
            for nonce, each in by_nonce.items()
        }
        gap = min(raws)
        rpc("anvil_removePoolTransactions", wallet)
        for nonce in sorted(raws.keys() - {gap}):
            rpc("eth_sendRawTransaction", raws[nonce])
        counted = int(rpc("eth_getTransactionCount", wallet, "pending"), 16)
        assert (counted, len(raws) > 2) == (gap, True), self.lab.explain(raws.keys())
        self.miner.resume()
        with reading(self.lab.database_url) as store:
            nonces = {row.key: row.nonce for row in read_rows(store)}
        return [case for case in cases if (nonces[case.order.key] or 0) > gap]

    def marks(self) -> Sequence[str]:
        """Return the arguments that state how many transactions each wallet signed."""
        with reading(self.lab.database_url) as store:
            rows = read_rows(store)
        arguments = []
        for wallet in self.lab.wallets:
            nonces = [
                row.nonce
                for row in rows
                if row.sender == wallet.lower() and row.nonce is not None
            ]
            if nonces:
                mark = f"local:{wallet}={max(nonces) + 3}"  # "Add some."
                arguments += ["--high-water", mark]
        return arguments

    def lose(self) -> None:
        """Kill the service, take its database away, and put the backup in its place."""
        self.lab.kill_hosts()
        self._backup.lose()
        self._backup.restore()
        self.run("db", "upgrade", DATABASE_URL=self._owner_url)

    @property
    def logs(self) -> Sequence[str]:
        files = [*self.lab.logs, self.lab.supervisor.log(COMMANDS)]
        return [each for file in files for each in ("--log", str(file))]

    def restore(self, *arguments: str, **environ: str) -> dict[str, Any]:
        """
        Look, and then complete the ledger with *arguments*; return what was done.

        Repeats each command while it waits for blocks, which may come after the first.
        """

        def repeat(how: str) -> Finished:
            finished = Finished(None, "", "")

            def succeeds() -> bool:
                nonlocal finished
                finished = self.hotwallet(
                    "restore", *arguments, how, "--json", **environ
                )
                return finished.status == 0

            assert self.lab.wait(succeeds, 20), self.lab.explain(finished)
            return finished

        repeat("--dry-run")
        done, again = repeat("--yes"), repeat("--dry-run")
        assert done.json["done"], self.lab.explain(done)
        left = [again.json[name] for name in _CHANGES]
        assert not any(left), self.lab.explain(again)
        return dict(done.json)

    def as_administrator(self, name: str, scope: str) -> Mapping[str, str]:
        """Return the environment of a command where two administrators must agree."""
        path = self.lab.home / "operator.token"
        path.touch(mode=0o600)
        token = mint_token(self.lab.token_key, name, roles=["admin"], scope=scope)
        path.write_text(token, encoding="ascii")
        return {"REQUIRE_APPROVALS": "true", "OPERATOR_TOKEN_FILE": str(path)}

    def settle(self) -> None:
        """Repeat all requests, wait until all are final, and compare with the chain."""
        assert self.customers.settle(), self._explain_wallets()
        problems = [*self.customers.find_problems(self.read_transfers())]
        assert problems == [], self.lab.explain(problems)

    def _explain_wallets(self) -> str:
        return self.lab.explain(self.hotwallet("nonce", "repair", "--dry-run").out)

    def read_transfers(self) -> Sequence[Transfer]:
        """Return the payments that the chain has."""
        rpc = self.lab.chain.rpc
        return [each for key in self.lab.wallets for each in read_transfers(rpc, key)]
