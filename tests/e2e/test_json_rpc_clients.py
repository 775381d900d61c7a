"""The guides of clients that speak JSON-RPC, against the running service."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import requests
from eth_account import Account
from eth_account.messages import encode_defunct

from api.auth.dev_tokens import mint
from dev.ports import free_port
from dev.programs import GO_ENVIRON, GO_PACKAGES
from dev.stack import (
    Stack,
    await_start,
    is_ready,
    request,
    running_stack,
)
from signer.config.settings import Settings
from signer.ports.clock import utc_now
from tests.e2e.conftest import LONG_ON_GETH, chain_options
from tests.e2e.gateway import RECIPIENT
from tests.fixtures.nginx import Nginx
from tests.support.forked_processes import ForkedHotWallet
from tests.support.waiting import eventually


ROOT = Path(__file__).resolve().parents[2]

PERMITS = """\
@id("messages-of-clients")
permit (principal, action == Action::"sign-message", resource)
when { context.path == "json-rpc" && context.length != 32 };

@id("typed-data-of-clients")
permit (principal, action == Action::"sign-typed-data", resource)
when { context.path == "json-rpc" && context.kind == "unknown" };
"""

SPENDER = "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC"

CALLS = f"""\
@id("coin-of-clients")
permit (principal, action == Action::"sign-transaction", resource)
when {{
  context.path == "call" && context.shape == "coin-transfer"
  && context has recipient && context.recipient == "{RECIPIENT}"
  && context.value.lessThanOrEqual(decimal("0.001"))
}};

@id("approvals-of-clients")
permit (principal, action == Action::"sign-transaction", resource)
when {{
  context.path == "call" && !context.has_value
  && context has function && context.function == "approve(address,uint256)"
  && context has spender && context.spender == "{SPENDER}"
  && context.gas <= 100000
}};
"""

HARDHAT = ROOT / "tests" / "e2e" / "hardhat"

AMOUNTS = {
    "web3py": "1.1",
    "ethers": "1.2",
    "viem": "1.3",
    "cast": "1.4",
    "web3py-async": "1.5",
    "hardhat": "1.8",
    "web3js": "1.9",
    "go": "2.0",
}

LANGUAGES = {
    "web3py": "python",
    "ethers": "javascript",
    "viem": "javascript",
    "cast": "bash",
    "hardhat": "javascript",
    "web3js": "javascript",
    "go": "go",
}
"""Those of the guide."""

INTERPRETERS = {
    "web3py": [sys.executable],
    "ethers": ["node"],
    "viem": ["node"],
    "cast": ["bash", "-eu"],
    "web3py-async": [sys.executable],
    "hardhat": ["node", "--import", str(HARDHAT / "without_native.mjs")],
    "web3js": ["node"],
    "go": ["go", "run"],
}

COINS = {
    "web3py": 1_001,
    "ethers": 1_002,
    "viem": 1_003,
    "cast": 1_004,
    "web3py-async": 1_005,
    "hardhat": 1_006,
    "web3js": 1_007,
    "go": 1_008,
}
"""What the guides send, in wei: an equal amount would be the same call."""

EXPIRED = {
    "web3py": "401 Client Error",
    "ethers": "server response 401",
    "viem": "HttpRequestError 401",
    "cast": "HTTP error 401",
    "web3py-async": "401, message='Unauthorized'",
    "hardhat": "UnknownError 401",
    "web3js": "ResponseError 401",
    "go": "401 Unauthorized",
}


def _clients(*names: str) -> pytest.MarkDecorator:
    """Return the parameter *client*: those of *names*, or all."""
    marks = {"go": [pytest.mark.needs("go")]}
    return pytest.mark.parametrize(
        "client",
        [pytest.param(each, marks=marks.get(each, ())) for each in names or AMOUNTS],
    )


@dataclass(frozen=True)
class Service:
    """A running stack, and what clients need to use it."""

    stack: Stack
    folder: Path

    def token(self, *, is_expired: bool = False) -> str:
        """Return a token of the tenant ``developer``."""
        return mint(
            Settings.from_env(self.stack.environ),
            subject="developer",
            roles=["signer"],
            clock=lambda: utc_now() - is_expired * timedelta(hours=1),
        )

    def call(self, method: str, *params: Any, at: str | None = None) -> Any:
        """Return the answer to a call of JSON-RPC."""
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}
        authorization = {"Authorization": f"Bearer {self.token()}"}
        url = f"{at or self.stack.url}/rpc"
        return request("POST", url, headers=authorization, body=body)[2]

    @property
    def wallet(self) -> str:
        """The address of the service's wallet."""
        return str(self.call("eth_accounts")["result"][0])

    def count(self, block: str) -> int:
        """Return the number of the wallet's transactions at *block*."""
        answer = self.call("eth_getTransactionCount", self.wallet, block)
        return int(answer["result"], 16)

    def await_depth(self) -> None:
        """Wait until all transactions are as deep as Ignition demands, to begin."""

        def is_deep() -> bool:
            head = int(self.call("eth_blockNumber")["result"], 16)
            return self.count(hex(head - 4)) == self.count("pending")

        assert eventually(is_deep)

    def transfer(self, units: int) -> dict[str, str]:
        """Return the transaction that pays RECIPIENT *units* of the token."""
        data = f"0xa9059cbb{RECIPIENT[2:].rjust(64, '0')}{units:064x}"
        return {"from": self.wallet, "to": self.stack.token, "data": data}

    def refunds(self) -> list[dict[str, Any]]:
        """Return what clients have sent."""
        token = mint(
            Settings.from_env(self.stack.environ),
            subject="developer",
            roles=["merchant"],
        )
        listed = request(
            "GET",
            f"{self.stack.url}/v1/refunds",
            headers={"Authorization": f"Bearer {token}"},
        )[2]["refunds"]
        return list(listed)

    def paid(self, amount: str) -> dict[str, Any]:
        """Return the only refund of *amount*."""
        (refund,) = (e for e in self.refunds() if float(e["amount"]) == float(amount))
        return refund

    def run(self, client: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the interpreter of *client* with *arguments* in its folder."""
        variables = {
            "HOME": os.environ["HOME"],
            "PATH": f"{_find_cast()}:{os.environ['PATH']}",
            "RPC_URL": f"{self.stack.url}/rpc",
            "TOKEN": self.token(),
            "EXPIRED": self.token(is_expired=True),
            "TOKEN_FILE": str(self.folder / client / "token"),
            "TOKEN_ADDRESS": self.stack.token,
            "RECIPIENT": RECIPIENT,
            "SPENDER": SPENDER,
            "CI": "true",
        }
        # The program of Go reads it from the start, the others begin to later.
        first = variables["TOKEN" if client == "go" else "EXPIRED"]
        (self.folder / client).mkdir(exist_ok=True)
        (self.folder / client / "token").write_text(first)
        return subprocess.run(
            [*INTERPRETERS[client], *arguments],
            cwd=self.folder / client,
            env=variables | GO_ENVIRON,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


# Hardhat's node refuses a call with both `data` and `input`, which cast makes.
@pytest.fixture(scope="module", params=["anvil", LONG_ON_GETH])
def service(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("clients")
    (folder / "policy").mkdir()
    path = folder / "policy" / "clients.cedar"
    path.write_text(PERMITS + CALLS, encoding="utf-8")
    # Node.js looks for packages in the folder of a program, and then in the one above.
    (folder / "node_modules").symlink_to(ROOT / "node_modules")
    (folder / "hardhat").mkdir()
    (folder / "hardhat" / "node_modules").symlink_to(HARDHAT / "node_modules")
    (folder / "hardhat" / "package.json").write_text('{"type": "module"}')
    config, payment = _blocks("hardhat")
    (folder / "hardhat" / "hardhat.config.js").write_text(config)
    modules = folder / "hardhat" / "ignition" / "modules"
    modules.mkdir(parents=True)
    (modules / "payment.js").write_text(payment)
    (modules / "creation.js").write_text(CREATION)
    (folder / "go").mkdir()
    for name in ("go.mod", "go.sum"):
        shutil.copy(GO_PACKAGES / name, folder / "go")
    settings = {"POLICY_DIR": str(folder / "policy"), "WEB_CONCURRENCY": "1"}
    with running_stack(
        folder / "home",
        settings=settings,
        program=ForkedHotWallet(),
        **chain_options(request.param),
    ) as stack:
        yield Service(stack, folder)


Printed = Mapping[str, Sequence[str]]
"""The words of each line that a program printed, by the first one."""


@pytest.fixture(scope="module")
def printed(service: Service) -> Callable[[str], Printed]:
    """Return what the program of a client prints, which runs once."""

    @cache
    def run(client: str) -> Printed:
        folder = service.folder / client
        folder.mkdir(exist_ok=True)
        program = folder / ("program.go" if client == "go" else "program.mjs")
        program.write_text(_program(client), encoding="utf-8")
        if LANGUAGES.get(client) == "javascript" and client in FRESH:
            fresh = _blocks(client)[1] + FRESH[client]
            (folder / "fresh.mjs").write_text(fresh, encoding="utf-8")
        finished = service.run(client, str(program))
        assert finished.returncode == 0, finished.stdout + finished.stderr
        lines = (line.split() for line in finished.stdout.splitlines())
        return {first: rest for first, *rest in filter(None, lines)}

    return run


def _find_cast() -> Path:
    """Return the folder of the program: npm's wrapper always exits with 0."""
    (folder,) = (ROOT / "node_modules" / "@foundry-rs").glob("cast-*/bin")
    return folder


GUIDE = (ROOT / "docs" / "how-to" / "json-rpc-clients.md").read_text("utf-8")


def _blocks(client: str) -> list[str]:
    """Return the code in the section of *client*: its guide, then mostly its token."""
    sections = GUIDE.split("\n## ")
    (section,) = (each for each in sections if heading(each).lower() == client)
    pattern = rf"^```{LANGUAGES[client]}\n(.*?)^```$"
    return re.findall(pattern, section, re.DOTALL | re.MULTILINE)


def heading(section: str) -> str:
    """Return the first line of *section* without the dots of ``web3.py``."""
    return section.partition("\n")[0].replace(".", "")


def _program(client: str) -> str:
    """
    Return the guide of *client*, or what does the same, and what the tests add.

    Then follows the guide's code that reads its token before each request; that of
    JavaScript is another module, as it has the same imports.
    """
    if client in PROGRAMS:
        return PROGRAMS[client]
    guide, *others = _blocks(client)
    if client == "go":  # The end of its main function.
        return f"{guide.rstrip().removesuffix('}')}{MORE[client]}}}\n"
    if client == "ethers":
        guide = guide.replace("provider.destroy();", "provider.pollingInterval = 100;")
    if LANGUAGES[client] == "javascript":
        return guide + MORE[client] + 'await import("./fresh.mjs");\n'
    # A command that fails would end a shell.
    fresh = others[0].replace(
        "rpc eth_accounts\n", "rpc eth_accounts > first.txt 2>&1 || true\n"
    )
    return guide + MORE[client] + fresh + FRESH[client]


@_clients()
def test_the_guide_pays_and_signs(
    service: Service, printed: Callable[[str], Printed], client: str
) -> None:
    """A transfer becomes a refund that is mined; the client verifies signatures."""
    lines = printed(client)
    refund = service.paid(AMOUNTS[client])
    tx_hash, status = lines["coin"]
    (sent,) = (each for each in service.refunds() if each["tx_hash"] == tx_hash)

    assert lines["paid"][0] == refund["tx_hash"]
    assert {status, lines["paid"][1]} <= {"1", "true"}
    assert (sent["token"], sent["calldata"]) == ("coin", "0x")
    assert (sent["recipient"], sent["amount"]) == (
        RECIPIENT,
        f"0.{COINS[client]:018d}",
    )
    assert lines["message"][0].lower() == "true"
    # The guide of Go signs no typed data.
    assert client == "go" or lines["typed"][1].lower() == "true"
    assert refund["recipient"] == RECIPIENT
    assert refund["reference"].startswith("rpc-")


@_clients()
def test_an_expired_token_is_a_clear_error(
    printed: Callable[[str], Printed], client: str
) -> None:
    """It is the error that the guide names."""
    assert EXPIRED[client] in " ".join(printed(client)["expired"])


@_clients("web3py", "ethers", "viem", "cast", "web3js", "go")
def test_a_client_reads_its_token_before_each_request(
    service: Service, printed: Callable[[str], Printed], client: str
) -> None:
    """The guide's code first has an expired token, and is not started again."""
    (address,) = printed(client)["account"]

    assert address.lower() == service.wallet.lower()


@_clients()
def test_a_refusal_shows_its_rule(
    printed: Callable[[str], Printed], client: str
) -> None:
    """Coin for an address that no rule names."""
    refused = " ".join(printed(client)["refused"])

    assert "4001" in refused
    assert re.search(r"rule\W+coin", refused)


APPROVALS = {"web3py": 11, "ethers": 12, "viem": 13, "cast": 14}
"""What the clients approve, in base units."""


@_clients(*APPROVALS)
def test_a_call_of_a_contract(
    service: Service, printed: Callable[[str], Printed], client: str
) -> None:
    """A rule permits one function for one spender; the calldata is unchanged."""
    tx_hash, status, *_ = printed(client)["approved"]
    found = service.call("eth_getTransactionByHash", tx_hash)["result"]
    spender = SPENDER[2:].lower().rjust(64, "0")

    assert status in {"1", "true"}
    assert found["input"] == f"0x095ea7b3{spender}{APPROVALS[client]:064x}"


@_clients(*APPROVALS)
def test_a_nonce_is_paid_once(printed: Callable[[str], Printed], client: str) -> None:
    """Sent again after it was mined, it has the same hash; a replacement is refused."""
    first, again = printed(client)["again"]

    assert first == again
    assert "nonce-used" in " ".join(printed(client)["replaced"])


MORE = {
    "web3py": """
from web3.exceptions import Web3RPCError
def send(**fields):
    return w3.eth.send_transaction({"from": wallet, **fields})
def error_of(**fields):
    try:
        send(**fields)
    except Web3RPCError as e:
        return e.rpc_response["error"]
spender, recipient = os.environ["SPENDER"], os.environ["RECIPIENT"]
print("refused", error_of(to=spender, value=1))
data = f"0x095ea7b3{spender[2:].rjust(64, '0')}{11:064x}"
tx_hash = send(to=token.address, data=data)
receipt = w3.eth.wait_for_transaction_receipt(tx_hash)
print("approved", tx_hash.to_0x_hex(), receipt["status"])
sent = {"to": recipient, "value": 2_001}
sent["nonce"] = w3.eth.get_transaction_count(wallet, "pending")
first = send(**sent)
w3.eth.wait_for_transaction_receipt(first)
print("again", first.to_0x_hex(), send(**sent).to_0x_hex())
print("replaced", error_of(**{**sent, "value": 2_002}))
""",
    "ethers": """
import { NonceManager } from "ethers";
const report = (name) => (e) => console.log(name, JSON.stringify(e.info ?? e.error));
const forbidden = { to: process.env.SPENDER, value: 1n };
await wallet.sendTransaction(forbidden).catch(report("refused"));
const approve = ["function approve(address spender, uint256 amount) returns (bool)"];
const approved = new Contract(process.env.TOKEN_ADDRESS, approve, wallet);
const approval = await (await approved.approve(process.env.SPENDER, 12n)).wait();
console.log("approved", approval.hash, approval.status);
const numbered = { to: process.env.RECIPIENT, value: 2_005n };
const first = await new NonceManager(wallet).sendTransaction(numbered);
await first.wait();
const again = { ...numbered, nonce: first.nonce };
console.log("again", first.hash, (await wallet.sendTransaction(again)).hash);
await wallet.sendTransaction({ ...again, value: 2_006n }).catch(report("replaced"));
provider.destroy();
""",
    "viem": """
const { RECIPIENT: to, SPENDER: spender } = process.env;
const wait = (hash) => client.waitForTransactionReceipt({ hash, pollingInterval: 100 });
await client.sendTransaction({ account, to: spender, value: 1n }).catch((e) => {
  const found = e.walk((each) => each.code === 4001);
  console.log("refused", JSON.stringify({ code: found.code, data: found.cause.data }));
});
const approval = await client.writeContract({
  account,
  address: process.env.TOKEN_ADDRESS,
  abi: parseAbi(["function approve(address spender, uint256 amount) returns (bool)"]),
  functionName: "approve",
  args: [spender, 13n],
});
console.log("approved", approval, (await wait(approval)).status === "success" ? 1 : 0);
const pending = { address: account, blockTag: "pending" };
const nonce = await client.getTransactionCount(pending);
const numbered = { account, to, value: 2_003n, nonce };
const first = await client.sendTransaction(numbered);
await wait(first);
console.log("again", first, await client.sendTransaction(numbered));
await client.sendTransaction({ ...numbered, value: 2_004n }).catch((e) => {
  console.log("replaced", JSON.stringify(e.walk((each) => each.data).data));
});
""",
    "cast": """
send() { cast send --unlocked --from "$wallet" "$@" 2>&1 | tr "\\n" " "; }
echo "refused $(send "$SPENDER" --value 1)"
hash="$(send --async "$TOKEN_ADDRESS" "approve(address,uint256)" "$SPENDER" 14)"
echo "approved $hash $(cast receipt $hash status)"
nonce="$(cast nonce --block pending "$wallet")"
numbered() { send --async --nonce "$nonce" "$RECIPIENT" --value "$1"; }
first="$(numbered 2007)"
cast receipt $first status > status.txt
echo "again $first $(numbered 2007)"
echo "replaced $(numbered 2008)"
""",
    "web3js": """
await web3.eth.sendTransaction({ from: wallet, to: process.env.SPENDER, value: 1n })
  .catch((e) => console.log("refused", JSON.stringify(e.cause)));
""",
    "go": """
	sent := map[string]any{"from": wallet, "to": os.Getenv("SPENDER"), "value": "0x1"}
	err = client.CallContext(ctx, nil, "eth_sendTransaction", sent)
	fmt.Println("refused", err.(rpc.Error).ErrorCode(), err.(rpc.DataError).ErrorData())
	os.WriteFile(os.Getenv("TOKEN_FILE"), []byte(os.Getenv("EXPIRED")), 0o600)
	fmt.Println("expired", client.CallContext(ctx, &wallets, "eth_accounts"))
	os.WriteFile(os.Getenv("TOKEN_FILE"), []byte(os.Getenv("TOKEN")), 0o600)
	call(&wallets, "eth_accounts")
	fmt.Println("account", wallets[0])
""",
}
"""What the tests add to each guide; it uses the guide's variables."""

FRESH = {
    "web3py": """
from requests import HTTPError
try:
    w3.eth.accounts
except HTTPError as e:
    print("expired", e)
Path(os.environ["TOKEN_FILE"]).write_text(os.environ["TOKEN"])
print("account", *w3.eth.accounts)
""",
    "ethers": """
import { writeFileSync } from "node:fs";
await provider.send("eth_accounts", []).catch((e) => console.log("expired", e.message));
writeFileSync(process.env.TOKEN_FILE, process.env.TOKEN);
console.log("account", (await provider.send("eth_accounts", []))[0]);
provider.destroy();
""",
    "viem": """
import { writeFileSync } from "node:fs";
await client.getAddresses().catch((e) => console.log("expired", e.name, e.status));
writeFileSync(process.env.TOKEN_FILE, process.env.TOKEN);
console.log("account", (await client.getAddresses())[0]);
""",
    "web3js": """
import { writeFileSync } from "node:fs";
await web3.eth.getAccounts().catch((e) => console.log("expired", e.name, e.statusCode));
writeFileSync(process.env.TOKEN_FILE, process.env.TOKEN);
console.log("account", (await web3.eth.getAccounts())[0]);
""",
    "cast": """
echo "expired $(tr "\\n" " " < first.txt)"
echo "$TOKEN" > "$TOKEN_FILE"
accounts="$(ETH_RPC_HEADERS="$(token_header)" cast rpc eth_accounts)"
echo "account $(tr -d '[]"' <<< "$accounts")"
""",
}
"""What uses the guide's code that reads its token again; it is expired at first."""

PROGRAMS = {
    "web3py-async": """
import asyncio, os
from eth_account import Account
from eth_account.messages import encode_defunct, encode_typed_data
from web3 import AsyncHTTPProvider, AsyncWeb3
from web3.exceptions import Web3RPCError
def connect(token):
    headers = {"Authorization": f"Bearer {token}"}
    return AsyncHTTPProvider(os.environ["RPC_URL"], {"headers": headers})
async def main():
    provider, expired = map(connect, (os.environ["TOKEN"], os.environ["EXPIRED"]))
    w3 = AsyncWeb3(provider)
    (wallet,) = await w3.eth.accounts
    async def pay(name, **fields):
        tx_hash = await w3.eth.send_transaction({"from": wallet, **fields})
        receipt = await w3.eth.wait_for_transaction_receipt(tx_hash)
        print(name, receipt["transactionHash"].to_0x_hex(), receipt["status"])
    recipient = os.environ["RECIPIENT"]
    data = f"0xa9059cbb{recipient[2:].rjust(64, '0')}{1_500_000:064x}"
    await pay("paid", to=os.environ["TOKEN_ADDRESS"], data=data)
    await pay("coin", to=recipient, value=1_005)
    answer = await provider.make_request("personal_sign", ["hello", wallet])
    message = encode_defunct(text="hello")
    signer = Account.recover_message(message, signature=answer["result"])
    print("message", signer == wallet)
    document = {
        "types": {
            "EIP712Domain": [{"name": "name", "type": "string"}],
            "Mail": [{"name": "contents", "type": "string"}],
        },
        "primaryType": "Mail",
        "domain": {"name": "Example"},
        "message": {"contents": "hello"},
    }
    # eth.sign_typed_data of web3.py 8.0.0 fails before it sends.
    answer = await provider.make_request("eth_signTypedData_v4", [wallet, document])
    message = encode_typed_data(full_message=document)
    signer = Account.recover_message(message, signature=answer["result"])
    print("typed data", signer == wallet)
    try:
        await pay("not refused", to=os.environ["SPENDER"], value=1)
    except Web3RPCError as e:
        print("refused", e.rpc_response["error"])
    try:
        await AsyncWeb3(expired).eth.accounts
    except Exception as e:
        print("expired", e)
    for each in (provider, expired):
        await each.disconnect()
asyncio.run(main())
""",
    "hardhat": """
import { network } from "hardhat";
import { BrowserProvider, Contract, verifyMessage, verifyTypedData } from "ethers";

const { provider } = await network.create("hotwallet");
const [address] = await provider.request({ method: "eth_accounts" });
const wallet = await new BrowserProvider(provider).getSigner(address);
wallet.provider.pollingInterval = 100;
const abi = ["function transfer(address to, uint256 amount) returns (bool)"];
const token = new Contract(process.env.TOKEN_ADDRESS, abi, wallet);
const sent = await token.transfer(process.env.RECIPIENT, 1_800_000n);
const receipt = await sent.wait();
console.log("paid", receipt.hash, receipt.status);

const coin = await wallet.sendTransaction({ to: process.env.RECIPIENT, value: 1_006n });
const moved = await coin.wait();
console.log("coin", moved.hash, moved.status);

const signature = await wallet.signMessage("hello");
console.log("message", verifyMessage("hello", signature) === address);
const domain = { name: "Example" };
const types = { Mail: [{ name: "contents", type: "string" }] };
const mail = { contents: "hello" };
const typed = await wallet.signTypedData(domain, types, mail);
console.log("typed data", verifyTypedData(domain, types, mail, typed) === address);

const params = [{ to: process.env.SPENDER, value: "0x1" }];
await provider.request({ method: "eth_sendTransaction", params })
  .catch((e) => console.log("refused", JSON.stringify({ code: e.code, data: e.data })));
await provider.close();

const httpHeaders = { Authorization: `Bearer ${process.env.EXPIRED}` };
const late = await network.create({ network: "hotwallet", override: { httpHeaders } });
await late.provider.request({ method: "eth_accounts" })
  .catch((e) => console.log("expired", e.name, e.cause.statusCode));
await late.provider.close();
""",
}


def test_a_repeated_transfer_is_paid_once(service: Service) -> None:
    """A client that lost the answer gets the same hash; the ledger counts nonces."""
    before, fields = service.count("pending"), service.transfer(1_600_000)
    first, second = (service.call("eth_sendTransaction", fields) for _ in range(2))

    assert first["result"] == second["result"]
    assert service.count("pending") == before + 1


CREATION = """
import { buildModule } from "@nomicfoundation/hardhat-ignition/modules";
const bytecode = "0x6001600c60003960016000f300";
const stop = { contractName: "Stop", sourceName: "", abi: [], linkReferences: {} };
export default buildModule("Creation", (m) => {
  return { stop: m.contract("Stop", { ...stop, bytecode }) };
});
"""


# On chain 31337 Ignition demands `hardhat_metadata`, which geth does not have.
_ON_ANVIL = pytest.mark.parametrize("service", ["anvil"], indirect=True)


@_ON_ANVIL
def test_ignition_executes_a_module(service: Service) -> None:
    """On chain 31337, where it first asks for ``hardhat_metadata``."""
    service.await_depth()
    finished = _hardhat(service, "deploy", "ignition/modules/payment.js")
    assert finished.returncode == 0, finished.stderr
    refund = service.paid("2.1")
    receipt = service.call("eth_getTransactionReceipt", refund["tx_hash"])["result"]

    assert "[ Payment ] successfully deployed" in finished.stdout
    assert (refund["recipient"], receipt["status"]) == (RECIPIENT, "0x1")


@_ON_ANVIL
def test_ignition_continues_after_a_refusal(service: Service) -> None:
    """It shows the rule, and forgets the call when it is told to, as the guide says."""
    service.await_depth()
    refused = _hardhat(service, "deploy", "ignition/modules/creation.js")
    sent = service.call("eth_sendTransaction", service.transfer(1_450_000))["result"]
    # The payment has the nonce that Ignition has chosen for its call.
    assert eventually(lambda: service.call("eth_getTransactionReceipt", sent)["result"])
    blocked = _hardhat(service, "deploy", "ignition/modules/creation.js")
    wiped = _hardhat(service, "wipe", "chain-31337", "Creation#Stop")
    continued = _hardhat(service, "deploy", "ignition/modules/payment.js")

    assert refused.returncode == 1
    assert "creates a contract (rule creation)" in refused.stdout + refused.stderr
    assert "HHE10410" in blocked.stdout + blocked.stderr
    assert wiped.returncode == 0, wiped.stderr
    assert continued.returncode == 0, continued.stderr


def _hardhat(service: Service, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the program of Hardhat in the project of its guide."""
    program = HARDHAT / "node_modules" / "hardhat" / "dist" / "src" / "cli.js"
    words = [str(program), "ignition", *arguments, "--network", "hotwallet"]
    return service.run("hardhat", *words)


def test_a_tool_that_cannot_set_a_header(service: Service, tmp_path: Path) -> None:
    """The guide's nginx adds the token; other paths do not exist."""
    server, header = re.findall(
        r"^```nginx\n(.*?)^```$", GUIDE, re.DOTALL | re.MULTILINE
    )
    written = header.replace("eyJ...", service.token())
    (tmp_path / "hotwallet-token.conf").write_text(written)
    temporary = " ".join(
        f"{name}_temp_path {tmp_path}/{name};"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )

    def configure(port: int) -> str:
        text = re.sub(" *proxy_ssl_trusted_certificate .*", "", server)
        for ours, theirs in (
            ("127.0.0.1:8545", f"127.0.0.1:{port}"),
            ("https://hotwallet.internal/rpc/ethereum", f"{service.stack.url}/rpc"),
            ("proxy_ssl_verify on;", ""),
        ):
            assert ours in text
            text = text.replace(ours, theirs)
        return (
            f"pid {tmp_path}/pid; error_log stderr; events {{}}"
            f" http {{ access_log off; {temporary}\n{text} }}"
        )

    body = {"jsonrpc": "2.0", "id": 1, "method": "eth_accounts", "params": []}
    with Nginx(tmp_path, 0, configure=configure) as proxy:
        url = f"http://127.0.0.1:{proxy.port}"
        answer = request("POST", f"{url}/", body=body)[2]
        other = requests.post(f"{url}/v1/sign/message", json={}, timeout=10)

    assert answer["result"] == [service.wallet]
    assert other.status_code == 404


def test_a_process_of_its_own(service: Service) -> None:
    """``serve --role sign`` signs, and a worker sends what it accepts."""
    stack = service.stack
    port = free_port()
    environ = {
        **stack.environ,
        "SERVE_ROLE": "sign",
        "BIND": f"127.0.0.1:{port}",
    }
    url = f"http://127.0.0.1:{port}"
    with stack.service("serve", log="sign", environ=environ) as process:
        await_start(process, stack.home / "sign.log", lambda: is_ready(url))
        own = service.call("eth_accounts", at=url)["result"][0]
        signature = service.call("personal_sign", "hello", own, at=url)["result"]
        sent = service.call("eth_sendTransaction", service.transfer(1_700_000), at=url)
        metrics = request("GET", f"{url}/metrics")[0]

    signable = encode_defunct(text="hello")
    assert Account.recover_message(signable, signature=signature) == own
    assert sent["result"].startswith("0x")
    assert metrics == 404


def test_reads_of_the_node(service: Service) -> None:
    """What cast and viem read before they send, from a real node."""
    history = service.call("eth_feeHistory", "0xa", "latest", [20.0])["result"]
    call = {"to": service.stack.token, "data": "0xdeadbeef"}
    estimate = service.call("eth_estimateGas", call)

    assert len(history["gasUsedRatio"]) <= 10
    assert estimate["error"]["code"] == 3
    assert int(service.call("eth_blockNumber")["result"], 16) > 0
