"""The guides of clients that speak JSON-RPC, against the running service."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
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
from tests.e2e.gateway import RECIPIENT
from tests.fixtures.nginx import Nginx
from tests.support.forked_processes import ForkedHotWallet


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
NEEDS_GO = pytest.param("go", marks=pytest.mark.needs("go"))
CLIENTS = [each if each != "go" else NEEDS_GO for each in AMOUNTS]

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
    "viem": "Status: 401",
    "cast": "401",
    "web3py-async": "401, message='Unauthorized'",
    "hardhat": "status code 401",
    "web3js": "statusCode: 401",
    "go": "401 Unauthorized",
}


@dataclass(frozen=True)
class Service:
    """A running stack, and what clients need to use it."""

    stack: Stack
    folder: Path

    def environ(self, token: str | None = None) -> dict[str, str]:
        """Return the variables that the guides read."""
        return {
            "HOME": os.environ["HOME"],
            "PATH": f"{_find_cast()}:{os.environ['PATH']}",
            "RPC_URL": f"{self.stack.url}/rpc",
            "TOKEN": token or self.stack.command("token", "--role", "signer"),
            "TOKEN_ADDRESS": self.stack.token,
            "RECIPIENT": RECIPIENT,
            "SPENDER": SPENDER,
        }

    def expired_token(self) -> str:
        """Return a token whose time is over."""
        return mint(
            Settings.from_env(self.stack.environ),
            subject="developer",
            roles=["signer"],
            clock=lambda: utc_now() - timedelta(hours=1),
        )

    def call(self, method: str, *params: Any, at: str | None = None) -> Any:
        """Return the answer to a call of JSON-RPC."""
        token = self.environ()["TOKEN"]
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}
        authorization = {"Authorization": f"Bearer {token}"}
        url = f"{at or self.stack.url}/rpc"
        return request("POST", url, headers=authorization, body=body)[2]

    def run(
        self,
        client: str,
        code: str,
        token: str | None = None,
        arguments: Sequence[str] = (),
        **environ: str,
    ) -> subprocess.CompletedProcess[str]:
        """Run *code* as a program of *client*, or its interpreter with *arguments*."""
        # Node.js looks for packages here, and then in the folder above.
        folder = self.folder / client
        folder.mkdir(exist_ok=True)
        program = folder / ("program.go" if client == "go" else "program.mjs")
        program.write_text(code, encoding="utf-8")
        variables = self.environ(token)
        token_file = folder / "token"
        token_file.write_text(variables["TOKEN"])
        return subprocess.run(
            [*INTERPRETERS[client], *(arguments or [str(program)])],
            cwd=folder,
            env=variables | GO_ENVIRON | {"TOKEN_FILE": str(token_file)} | environ,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service for all clients."""
    folder = tmp_path_factory.mktemp("clients")
    (folder / "policy").mkdir()
    path = folder / "policy" / "clients.cedar"
    path.write_text(PERMITS + CALLS, encoding="utf-8")
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
        folder / "home", settings=settings, program=ForkedHotWallet()
    ) as stack:
        yield Service(stack, folder)


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


def _guide(client: str) -> str:
    """Return the program of the guide of *client*, or what does the same."""
    return OTHER_GUIDES.get(client) or _blocks(client)[0]


@pytest.mark.parametrize("client", CLIENTS)
def test_the_guide_pays_and_signs(service: Service, client: str) -> None:
    """A transfer becomes a refund that is mined; the client verifies signatures."""
    finished = service.run(client, _guide(client))
    assert finished.returncode == 0, finished.stderr
    lines = finished.stdout.lower().splitlines()
    assert len(lines) == 4 - (client == "go"), finished.stdout + finished.stderr
    paid, coin, *signed = lines
    word, tx_hash, status = paid.split()
    listed = request(
        "GET",
        f"{service.stack.url}/v1/refunds",
        headers={"Authorization": f"Bearer {service.stack.command('token')}"},
    )[2]["refunds"]
    (refund,) = (
        each for each in listed if float(each["amount"]) == float(AMOUNTS[client])
    )
    (sent,) = (each for each in listed if each["tx_hash"] == coin.split()[1])

    assert (word, status in {"1", "true"}) == ("paid", True)
    assert coin.split()[2] in {"1", "true"}
    assert (sent["token"], sent["calldata"]) == ("coin", "0x")
    assert (sent["recipient"], sent["amount"]) == (
        RECIPIENT,
        f"0.{COINS[client]:018d}",
    )
    assert signed == ["message true", "typed data true"][: len(signed)]
    assert (refund["recipient"], refund["tx_hash"]) == (RECIPIENT, tx_hash)
    assert refund["reference"].startswith("rpc-")


@pytest.mark.parametrize("client", CLIENTS)
def test_an_expired_token_is_a_clear_error(service: Service, client: str) -> None:
    finished = service.run(client, _guide(client), service.expired_token())

    assert finished.returncode != 0
    assert EXPIRED[client] in finished.stderr + finished.stdout


APPROVALS = {
    "web3py": """
import os
from web3 import Web3
headers = {"Authorization": f"Bearer {os.environ['TOKEN']}"}
w3 = Web3(Web3.HTTPProvider(os.environ["RPC_URL"], {"headers": headers}))
data = f"0x095ea7b3{os.environ['SPENDER'][2:].rjust(64, '0')}{11:064x}"
tx_hash = w3.eth.send_transaction(
    {"from": w3.eth.accounts[0], "to": os.environ["TOKEN_ADDRESS"], "data": data}
)
print(tx_hash.to_0x_hex(), w3.eth.wait_for_transaction_receipt(tx_hash)["status"])
""",
    "ethers": """
import { Contract, FetchRequest, JsonRpcProvider } from "ethers";
const request = new FetchRequest(process.env.RPC_URL);
request.setHeader("Authorization", `Bearer ${process.env.TOKEN}`);
const options = { staticNetwork: true, cacheTimeout: -1 };
const provider = new JsonRpcProvider(request, undefined, options);
const wallet = await provider.getSigner();
const abi = ["function approve(address spender, uint256 amount) returns (bool)"];
const token = new Contract(process.env.TOKEN_ADDRESS, abi, wallet);
const receipt = await (await token.approve(process.env.SPENDER, 12n)).wait();
console.log(receipt.hash, receipt.status);
provider.destroy();
""",
    "viem": """
import { createWalletClient, http, parseAbi, publicActions } from "viem";
import { foundry as chain } from "viem/chains";
const headers = { Authorization: `Bearer ${process.env.TOKEN}` };
const transport = http(process.env.RPC_URL, { fetchOptions: { headers } });
const client = createWalletClient({ chain, transport }).extend(publicActions);
const [account] = await client.getAddresses();
const hash = await client.writeContract({
  account,
  address: process.env.TOKEN_ADDRESS,
  abi: parseAbi(["function approve(address spender, uint256 amount) returns (bool)"]),
  functionName: "approve",
  args: [process.env.SPENDER, 13n],
});
const receipt = await client.waitForTransactionReceipt({ hash });
console.log(hash, receipt.status === "success" ? 1 : 0);
""",
    "cast": """
export ETH_RPC_URL="$RPC_URL" ETH_RPC_HEADERS="Authorization: Bearer $TOKEN"
wallet="$(cast rpc eth_accounts | tr -d '[]"')"
hash="$(cast send --unlocked --async --from "$wallet" "$TOKEN_ADDRESS" \\
  "approve(address,uint256)" "$SPENDER" 14)"
echo "$hash $(cast receipt "$hash" status)"
""",
}


@pytest.mark.parametrize("client", APPROVALS)
def test_a_call_of_a_contract(service: Service, client: str) -> None:
    """A rule permits one function for one spender; the calldata is unchanged."""
    finished = service.run(client, APPROVALS[client])

    assert finished.returncode == 0, finished.stderr
    tx_hash, status, *_ = finished.stdout.split()
    found = service.call("eth_getTransactionByHash", tx_hash)["result"]
    units = 11 + list(APPROVALS).index(client)
    spender = SPENDER[2:].lower().rjust(64, "0")
    assert status in {"1", "true"}
    assert found["input"] == f"0x095ea7b3{spender}{units:064x}"


AUTHORIZE = re.findall(r"^func authorize.*?^}\n", GUIDE, re.DOTALL | re.MULTILINE)

GO_IMPORTS = f"""
package main
import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"
	"github.com/ethereum/go-ethereum/rpc"
)
{AUTHORIZE[0]}
func dial() *rpc.Client {{
	auth := rpc.WithHTTPAuth(authorize)
	client, err := rpc.DialOptions(context.Background(), os.Getenv("RPC_URL"), auth)
	if err != nil {{
		panic(err)
	}}
	return client
}}
"""
"""A program of Go begins with this, and with the guide's function."""

COIN = {
    "web3py": """
import os
from web3 import Web3
from web3.exceptions import Web3RPCError
headers = {"Authorization": f"Bearer {os.environ['TOKEN']}"}
w3 = Web3(Web3.HTTPProvider(os.environ["RPC_URL"], {"headers": headers}))
try:
    w3.eth.send_transaction(
        {"from": w3.eth.accounts[0], "to": os.environ["SPENDER"], "value": 1}
    )
except Web3RPCError as e:
    print(e.rpc_response["error"])
""",
    "ethers": """
import { FetchRequest, JsonRpcProvider } from "ethers";
const request = new FetchRequest(process.env.RPC_URL);
request.setHeader("Authorization", `Bearer ${process.env.TOKEN}`);
const provider = new JsonRpcProvider(request, undefined, { staticNetwork: true });
const wallet = await provider.getSigner();
await wallet.sendTransaction({ to: process.env.SPENDER, value: 1n })
  .catch((e) => console.log(JSON.stringify(e.info ?? e.error)));
provider.destroy();
""",
    "viem": """
import { createWalletClient, http } from "viem";
import { foundry as chain } from "viem/chains";
const headers = { Authorization: `Bearer ${process.env.TOKEN}` };
const transport = http(process.env.RPC_URL, { fetchOptions: { headers } });
const client = createWalletClient({ chain, transport });
const [account] = await client.getAddresses();
await client.sendTransaction({ account, to: process.env.SPENDER, value: 1n })
  .catch((e) => {
    const found = e.walk((each) => each.code === 4001);
    console.log(JSON.stringify({ code: found.code, data: found.cause.data }));
  });
""",
    "cast": """
export ETH_RPC_URL="$RPC_URL" ETH_RPC_HEADERS="Authorization: Bearer $TOKEN"
wallet="$(cast rpc eth_accounts | tr -d '[]"')"
cast send --unlocked --from "$wallet" "$SPENDER" --value 1 2>&1 || true
""",
    "web3py-async": """
import asyncio, os
from web3 import AsyncHTTPProvider, AsyncWeb3
from web3.exceptions import Web3RPCError
async def main():
    headers = {"Authorization": f"Bearer {os.environ['TOKEN']}"}
    provider = AsyncHTTPProvider(os.environ["RPC_URL"], {"headers": headers})
    w3 = AsyncWeb3(provider)
    (wallet,) = await w3.eth.accounts
    try:
        await w3.eth.send_transaction(
            {"from": wallet, "to": os.environ["SPENDER"], "value": 1}
        )
    except Web3RPCError as e:
        print(e.rpc_response["error"])
    await provider.disconnect()
asyncio.run(main())
""",
    "hardhat": """
import { network } from "hardhat";
const { provider } = await network.create("hotwallet");
const params = [{ to: process.env.SPENDER, value: "0x1" }];
await provider.request({ method: "eth_sendTransaction", params })
  .catch((e) => console.log(JSON.stringify({ code: e.code, data: e.data })));
await provider.close();
""",
    "web3js": """
import { Web3 } from "web3";
const headers = { Authorization: `Bearer ${process.env.TOKEN}` };
const options = { providerOptions: { headers } };
const web3 = new Web3(new Web3.providers.HttpProvider(process.env.RPC_URL, options));
const [from] = await web3.eth.getAccounts();
await web3.eth.sendTransaction({ from, to: process.env.SPENDER, value: 1n })
  .catch((e) => console.log(JSON.stringify(e.cause)));
""",
    "go": f"""
{GO_IMPORTS}
func main() {{
	client, ctx := dial(), context.Background()
	var wallets []string
	client.CallContext(ctx, &wallets, "eth_accounts")
	call := map[string]string{{
		"from": wallets[0], "to": os.Getenv("SPENDER"), "value": "0x1",
	}}
	err := client.CallContext(ctx, nil, "eth_sendTransaction", call)
	fmt.Println(err.(rpc.Error).ErrorCode(), err.(rpc.DataError).ErrorData())
}}
""",
}


@pytest.mark.parametrize("client", CLIENTS)
def test_a_refusal_shows_its_rule(service: Service, client: str) -> None:
    """Coin for an address that no rule names."""
    finished = service.run(client, COIN[client])

    assert "4001" in finished.stdout, finished.stderr
    assert re.search(r"rule\W+coin", finished.stdout)


OTHER_GUIDES = {
    "web3py-async": """
import asyncio, os
from eth_account import Account
from eth_account.messages import encode_defunct, encode_typed_data
from web3 import AsyncHTTPProvider, AsyncWeb3
async def main():
    headers = {"Authorization": f"Bearer {os.environ['TOKEN']}"}
    provider = AsyncHTTPProvider(os.environ["RPC_URL"], {"headers": headers})
    w3 = AsyncWeb3(provider)
    try:
        (wallet,) = await w3.eth.accounts
        recipient = os.environ["RECIPIENT"][2:].rjust(64, "0")
        data = f"0xa9059cbb{recipient}{1_500_000:064x}"
        tx_hash = await w3.eth.send_transaction(
            {"from": wallet, "to": os.environ["TOKEN_ADDRESS"], "data": data}
        )
        receipt = await w3.eth.wait_for_transaction_receipt(tx_hash)
        print("paid", receipt["transactionHash"].to_0x_hex(), receipt["status"])
        tx_hash = await w3.eth.send_transaction(
            {"from": wallet, "to": os.environ["RECIPIENT"], "value": 1_005}
        )
        receipt = await w3.eth.wait_for_transaction_receipt(tx_hash)
        print("coin", receipt["transactionHash"].to_0x_hex(), receipt["status"])
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
        params = [wallet, document]
        answer = await provider.make_request("eth_signTypedData_v4", params)
        message = encode_typed_data(full_message=document)
        signer = Account.recover_message(message, signature=answer["result"])
        print("typed data", signer == wallet)
    finally:
        await provider.disconnect()
asyncio.run(main())
""",
    "hardhat": """
import { network } from "hardhat";
import { BrowserProvider, Contract, verifyMessage, verifyTypedData } from "ethers";

const { provider } = await network.create("hotwallet");
const [address] = await provider.request({ method: "eth_accounts" });

// Pay
const wallet = await new BrowserProvider(provider).getSigner(address);
const abi = ["function transfer(address to, uint256 amount) returns (bool)"];
const token = new Contract(process.env.TOKEN_ADDRESS, abi, wallet);
const sent = await token.transfer(process.env.RECIPIENT, 1_800_000n);
const receipt = await sent.wait();
console.log("paid", receipt.hash, receipt.status);

// Send coin
const coin = await wallet.sendTransaction({ to: process.env.RECIPIENT, value: 1_006n });
const moved = await coin.wait();
console.log("coin", moved.hash, moved.status);

// Sign
const signature = await wallet.signMessage("hello");
console.log("message", verifyMessage("hello", signature) === address);

const domain = { name: "Example" };
const types = { Mail: [{ name: "contents", type: "string" }] };
const mail = { contents: "hello" };
const typed = await wallet.signTypedData(domain, types, mail);
console.log("typed data", verifyTypedData(domain, types, mail, typed) === address);
await provider.close();
""",
}


def test_a_repeated_transfer_is_paid_once(service: Service) -> None:
    """A client that lost the answer gets the same hash; the ledger counts nonces."""
    own = service.call("eth_accounts")["result"][0]
    data = f"0xa9059cbb{RECIPIENT[2:].rjust(64, '0')}{1_600_000:064x}"
    fields = {"from": own, "to": service.stack.token, "data": data}
    before = int(service.call("eth_getTransactionCount", own, "pending")["result"], 16)

    first, second = (service.call("eth_sendTransaction", fields) for _ in range(2))
    after = int(service.call("eth_getTransactionCount", own, "pending")["result"], 16)

    assert first["result"] == second["result"]
    assert after == before + 1


NONCES = {
    "web3py": """
import os
from web3 import Web3
from web3.exceptions import Web3RPCError
headers = {"Authorization": f"Bearer {os.environ['TOKEN']}"}
w3 = Web3(Web3.HTTPProvider(os.environ["RPC_URL"], {"headers": headers}))
wallet = w3.eth.accounts[0]
sent = {
    "from": wallet,
    "to": os.environ["RECIPIENT"],
    "value": 2_001,
    "nonce": w3.eth.get_transaction_count(wallet, "pending"),
}
first = w3.eth.send_transaction(sent)
w3.eth.wait_for_transaction_receipt(first)
print(first.to_0x_hex(), w3.eth.send_transaction(sent).to_0x_hex())
try:
    w3.eth.send_transaction({**sent, "value": 2_002})
except Web3RPCError as e:
    print(e.rpc_response["error"])
""",
    "viem": """
import { createWalletClient, http, publicActions } from "viem";
import { foundry as chain } from "viem/chains";
const headers = { Authorization: `Bearer ${process.env.TOKEN}` };
const transport = http(process.env.RPC_URL, { fetchOptions: { headers } });
const client = createWalletClient({ chain, transport }).extend(publicActions);
const [account] = await client.getAddresses();
const pending = { address: account, blockTag: "pending" };
const nonce = await client.getTransactionCount(pending);
const sent = { account, to: process.env.RECIPIENT, value: 2_003n, nonce };
const first = await client.sendTransaction(sent);
await client.waitForTransactionReceipt({ hash: first });
console.log(first, await client.sendTransaction(sent));
await client.sendTransaction({ ...sent, value: 2_004n })
  .catch((e) => console.log(e.name, JSON.stringify(e.walk((each) => each.data).data)));
""",
    "ethers": """
import { FetchRequest, JsonRpcProvider, NonceManager } from "ethers";
const request = new FetchRequest(process.env.RPC_URL);
request.setHeader("Authorization", `Bearer ${process.env.TOKEN}`);
const options = { staticNetwork: true, cacheTimeout: -1 };
const provider = new JsonRpcProvider(request, undefined, options);
const wallet = await provider.getSigner();
const manager = new NonceManager(wallet);
const sent = { to: process.env.RECIPIENT, value: 2_005n };
const first = await manager.sendTransaction(sent);
await first.wait();
const nonce = first.nonce;
console.log(first.hash, (await wallet.sendTransaction({ ...sent, nonce })).hash);
await wallet.sendTransaction({ ...sent, nonce, value: 2_006n })
  .catch((e) => console.log(e.code, JSON.stringify(e.info ?? e.error)));
provider.destroy();
""",
    "cast": """
export ETH_RPC_URL="$RPC_URL" ETH_RPC_HEADERS="Authorization: Bearer $TOKEN"
wallet="$(cast rpc eth_accounts | tr -d '[]"')"
nonce="$(cast nonce --block pending "$wallet")"
send() {
  cast send --unlocked --async --nonce "$nonce" --from "$wallet" "$RECIPIENT" "$@"
}
first="$(send --value 2007)"
cast receipt "$first" status > status.txt
echo "$first $(send --value 2007)"
send --value 2008 2>&1 || true
""",
}


@pytest.mark.parametrize("client", NONCES)
def test_a_nonce_is_paid_once(service: Service, client: str) -> None:
    """Sent again after it was mined, it has the same hash; a replacement is refused."""
    finished = service.run(client, NONCES[client])

    assert finished.returncode == 0, finished.stderr
    hashes, refusal = finished.stdout.splitlines()[:2]
    first, again = hashes.split()
    assert first == again
    assert "nonce-used" in refusal


USES = {
    "web3py": """
from requests import HTTPError
try:
    w3.eth.accounts
except HTTPError as e:
    print("expired", e.response.status_code)
Path(os.environ["TOKEN_FILE"]).write_text(os.environ["TOKEN"])
print(*w3.eth.accounts)
""",
    "ethers": """
import { writeFileSync } from "node:fs";
await provider.send("eth_accounts", []).catch((e) => console.log("expired", e.message));
writeFileSync(process.env.TOKEN_FILE, process.env.TOKEN);
console.log((await provider.send("eth_accounts", []))[0]);
provider.destroy();
""",
    "viem": """
import { writeFileSync } from "node:fs";
await client.getAddresses().catch((e) => console.log("expired", e.status));
writeFileSync(process.env.TOKEN_FILE, process.env.TOKEN);
console.log((await client.getAddresses())[0]);
""",
    "web3js": """
import { writeFileSync } from "node:fs";
await web3.eth.getAccounts().catch((e) => console.log("expired", e.statusCode));
writeFileSync(process.env.TOKEN_FILE, process.env.TOKEN);
console.log((await web3.eth.getAccounts())[0]);
""",
    "go": f"""
{GO_IMPORTS}
func main() {{
	client, ctx := dial(), context.Background()
	var wallets []string
	fmt.Println(client.CallContext(ctx, &wallets, "eth_accounts"))
	os.WriteFile(os.Getenv("TOKEN_FILE"), []byte(os.Getenv("TOKEN")), 0o600)
	client.CallContext(ctx, &wallets, "eth_accounts")
	fmt.Println(wallets[0])
}}
""",
    "cast": """
echo "$TOKEN" > "$TOKEN_FILE"
ETH_RPC_HEADERS="$(token_header)" cast rpc eth_accounts | tr -d '[]"'
""",
}


@pytest.mark.parametrize(
    "client", [NEEDS_GO if each == "go" else each for each in USES]
)
def test_a_client_reads_its_token_before_each_request(
    service: Service, client: str
) -> None:
    """The guide's code first has an expired token, and is not started again."""
    code = "" if client == "go" else _blocks(client)[1]
    token_file = service.folder / f"token-{client}"
    token_file.write_text(service.expired_token())
    if client == "cast":
        code = code.replace("eth_accounts", "eth_accounts 2>&1 || true")
    finished = service.run(client, code + USES[client], TOKEN_FILE=str(token_file))

    assert finished.returncode == 0, finished.stderr
    refusal, *_, address = finished.stdout.splitlines()
    assert "401" in refusal
    assert address.lower() == service.call("eth_accounts")["result"][0].lower()


CREATION = """
import { buildModule } from "@nomicfoundation/hardhat-ignition/modules";
const bytecode = "0x6001600c60003960016000f300";
const stop = { contractName: "Stop", sourceName: "", abi: [], linkReferences: {} };
export default buildModule("Creation", (m) => {
  return { stop: m.contract("Stop", { ...stop, bytecode }) };
});
"""


def test_ignition_executes_a_module(service: Service) -> None:
    """On chain 31337, where it first asks for ``hardhat_metadata``."""
    finished = _hardhat(service, "deploy", "ignition/modules/payment.js")
    (refund,) = (
        each
        for each in request(
            "GET",
            f"{service.stack.url}/v1/refunds",
            headers={"Authorization": f"Bearer {service.stack.command('token')}"},
        )[2]["refunds"]
        if float(each["amount"]) == 2.1
    )
    receipt = service.call("eth_getTransactionReceipt", refund["tx_hash"])["result"]

    assert finished.returncode == 0, finished.stderr
    assert "[ Payment ] successfully deployed" in finished.stdout
    assert (refund["recipient"], receipt["status"]) == (RECIPIENT, "0x1")


def test_ignition_continues_after_a_refusal(service: Service) -> None:
    """It shows the rule, and forgets the call when it is told to, as the guide says."""
    refused = _hardhat(service, "deploy", "ignition/modules/creation.js")
    service.run(
        "cast", _guide("cast").replace("1400000", "1450000").replace("1004", "1009")
    )
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
    return service.run("hardhat", "", arguments=words, CI="true")


def test_a_tool_that_cannot_set_a_header(service: Service, tmp_path: Path) -> None:
    """The guide's nginx adds the token; other paths do not exist."""
    server, header = re.findall(
        r"^```nginx\n(.*?)^```$", GUIDE, re.DOTALL | re.MULTILINE
    )
    token = service.environ()["TOKEN"]
    (tmp_path / "hotwallet-token.conf").write_text(header.replace("eyJ...", token))
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

    assert answer["result"] == service.call("eth_accounts")["result"]
    assert other.status_code == 404


def test_a_wallet_of_the_service_signs_no_transaction(service: Service) -> None:
    """Not without a rule of the operator: its nonces belong to the ledger."""
    own = service.call("eth_accounts")["result"][0]
    data = f"0xa9059cbb{RECIPIENT[2:].rjust(64, '0')}{1_600_000:064x}"
    fields = {
        "from": own,
        "to": service.stack.token,
        "data": data,
        "nonce": "0x0",
        "gas": "0xffff",
        "maxFeePerGas": "0x77359400",
        "maxPriorityFeePerGas": "0x0",
    }

    error = service.call("eth_signTransaction", fields)["error"]

    assert (error["code"], error["data"]["rule"]) == (4001, "service-wallet")
    assert "eth_sendTransaction" in error["message"]


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
        data = f"0xa9059cbb{RECIPIENT[2:].rjust(64, '0')}{1_700_000:064x}"
        fields = {"from": own, "to": stack.token, "data": data}
        sent = service.call("eth_sendTransaction", fields, at=url)
        metrics = request("GET", f"{url}/metrics")[0]

    signable = encode_defunct(text="hello")
    assert Account.recover_message(signable, signature=signature) == own
    assert sent["result"].startswith("0x")
    assert metrics == 404


def test_reads_of_the_node(service: Service) -> None:
    """What cast and viem read before they send."""
    history = service.call("eth_feeHistory", "0xa", "latest", [20.0])["result"]
    estimate = service.call(
        "eth_estimateGas", {"to": service.stack.token, "data": "0xdeadbeef"}
    )

    assert len(history["gasUsedRatio"]) <= 10
    assert estimate["error"]["code"] == 3
    assert int(service.call("eth_blockNumber")["result"], 16) > 0
    assert json.dumps(service.call("eth_call", {"to": 7})["error"]["code"]) == "-32602"
