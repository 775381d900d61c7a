"""Real processes pay from a vault: the guide of operators, and the demo."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGTERM

from dev import stablecoin
from dev.anvil import ROOT
from dev.stack import SYMBOL, Stack, exports, is_ready, running_stack
from dev.vault import StackVault, configure, create_key, deploy_vault
from tests.e2e.console import Console, Guide
from tests.e2e.gateway import Gateway
from tests.extras.drills.people import Act
from tests.extras.drills.playing import Staging
from tests.support.forked_processes import ForkedHotWallet, command_for_shells
from tests.support.programs import run_python
from tests.support.waiting import eventually


UNIT = 10**6
GUIDE = ROOT / "docs" / "how-to" / "vault.md"


def test_the_guide_is_followed(tmp_path: Path) -> None:
    """*Pay from a vault*: move from a plain wallet, rotate and revoke."""
    with (
        running_stack(tmp_path / "home", program=ForkedHotWallet()) as stack,
        command_for_shells() as commands,
    ):
        gateway = Gateway.of(stack)
        _, standby = create_key(stack, "02")
        third_id, third = create_key(stack, "03")
        stablecoin.fund(stack.chain_url, standby)
        vault = deploy_vault(stack, [stack.address, standby])
        console = Console(tmp_path, {})
        console.run(exports(stack.environ))
        console.run(f"PATH={commands}:$PATH")
        guide = Guide(
            console,
            GUIDE,
            left_out={
                'hotwallet vault propose --network "$': "is played by the drill",
                'hotwallet keys rotate "$': "is played by the drill",
            },
            texts={
                "polygon": "local",
                "USDC": "TUSD",
                "0x90F79bf6EB2c4f870365E785982E1f101E93b906": vault.guardian,
                "0xf46A67d11981675043Ba93976F6081753cA5347B": stack.address,
                "0x2B104909c54b3AC05A81FF0d97f29D0d66b93228": standby,
                "0x15d34AAf54267DB7D7c367839AAf71A00a2C6A65": third,
                "0x5FbDB2315678afecb367f032d93F642f64180aa3": vault.address,
                "1234abcd-12ab-34cd-56ef-1234567890ab": third_id,
            },
        )
        try:
            guide.follow("hotwallet vault deploy")
            guide.follow("hotwallet vault status")
            _move(gateway, vault)
            with _restarted(stack):
                _pay(gateway, vault, stack.address)
                guide.follow("hotwallet keys rotate")
                guide.follow("hotwallet vault propose --network polygon --add-op")
                _drill(vault, tmp_path)
                _pay(gateway, vault, standby)
                _audit(console)
        finally:
            console.close()
        assert guide.unused() == []


def _audit(console: Console) -> None:
    """*Verify an export*: the auditor finds no problem with the vault."""
    page = ROOT / "docs" / "how-to" / "verify-an-export.md"
    guide = Guide(console, page, texts={"polygon": "local", "BLOCK": "0"})
    guide.follow("hotwallet vault status")


def _move(gateway: Gateway, vault: StackVault) -> None:
    """Pay what the plain wallet holds to the vault, and configure that."""
    _, _, refund = gateway.post(recipient=vault.address, amount="1000")
    gateway.wait(refund["id"], "confirmed")
    assert vault.balance == 1000 * UNIT
    configure(vault.stack, vault.address)


@contextmanager
def _restarted(stack: Stack) -> Iterator[None]:
    """Start the service again, with its new networks file."""
    for process in stack.processes.values():
        process.send_signal(SIGTERM)
    for process in stack.processes.values():
        process.wait(30)
    with stack.service("serve", log="again"), stack.service("worker", log="worker-2"):
        assert eventually(lambda: is_ready(stack.url), 60)
        yield


def _pay(gateway: Gateway, vault: StackVault, sender: str) -> None:
    """Pay a refund from the vault, with the key of *sender*."""
    before = vault.balance
    _, _, refund = gateway.post(amount="1.25")
    paid = gateway.wait(refund["id"], "confirmed")

    assert paid["sender"] == sender
    assert before - vault.balance == 1_250_000


def _drill(vault: StackVault, folder: Path) -> None:
    """Find caps that were not lowered and a thief who can pay on, and then none."""
    caps = f"{SYMBOL}=500/20000"
    people: dict[str, Act] = dict.fromkeys(
        ("sign-caps", "sign-removal"), lambda _: None
    )
    given = {"NEW_KEY_ID": "02", "CAPS": caps}
    drill = Staging(vault.stack, folder, "guardian", people, given)

    drill.require_failure("sign-caps", patience=15)
    people["sign-caps"] = lambda _: vault.sign("--caps", caps)
    drill.require_failure("sign-removal", patience=4)
    people["sign-removal"] = lambda drilled: vault.sign(
        "--remove-operator", drilled["OLD_ADDRESS"]
    )
    ran = drill.play()

    assert ran.returncode == 0, ran.stdout + ran.stderr
    drill.require_recorded("succeeded")


def test_the_demo_pays_and_is_robbed(softhsm_module: Path, tmp_path: Path) -> None:
    """One signature pays a hundred; the thief gets what is left of the day."""
    environ = {"PKCS11_MODULE": str(softhsm_module)}
    home = str(tmp_path / "home")
    ran = run_python("-m", "dev.demo_vault", home, environ=environ, cwd=ROOT)

    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "One signature has paid 100 refunds." in ran.stdout
    assert "the thief has  620.00 TUSD" in ran.stdout
    assert "vault holds    998,005.00 TUSD" in ran.stdout
