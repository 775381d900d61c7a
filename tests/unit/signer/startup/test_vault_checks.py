"""T12: a vault on a real chain is compared with the configuration and the ring."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from eth_utils.address import to_checksum_address

from backends.json_rpc import JSONRPCChain
from signer.chain.chain import Chain
from signer.config.networks import Network
from signer.errors import ChainUnavailableError, ConfigurationError
from signer.model.key import Key, KeyState
from signer.startup.dependency_checks import check_vault
from tests.fixtures.chain import DevChain
from tests.support.keys import key_at
from tests.support.refunds import altered
from tests.support.vault import LocalVault, deploy_vault


UNIT = 10**6
NO_VAULT = "0x000000000000000000000000000000000000dEaD"


@dataclass(frozen=True)
class System:
    """A vault that may pay 100 an item and 500 a day, as configured."""

    vault: LocalVault
    limits: dict[str, str]
    ring: Sequence[Key]
    address: str | None
    is_production: bool = True

    def check(self, **methods: Any) -> None:
        """Check the vault; *methods* replace those of the client."""
        token = {"address": self.vault.token, "decimals": 6, **self.limits}
        network = Network.model_validate(
            {
                "chain_id": 31337,
                "rpc_urls": [self.vault.url],
                "tokens": {"TUSD": token},
                "vault": self.address,
            }
        )
        client = JSONRPCChain([self.vault.url], timeout=10)
        chain = Chain(network, altered(client, **methods))
        check_vault("local", chain, self.ring, is_production=self.is_production)

    def refusals(self) -> dict[str, str]:
        """Return the message of each code for which the vault is refused."""
        with pytest.raises(ConfigurationError) as caught:
            self.check()
        return {each.code: each.message for each in caught.value.refusals}


@pytest.fixture
def system(fresh_anvil: DevChain) -> System:
    vault = deploy_vault(
        fresh_anvil.url, fresh_anvil.token, caps=(100 * UNIT, 500 * UNIT), funds=0
    )
    ring = [key_at(to_checksum_address(vault.operators[0]))]
    limits = {"max_amount": "100", "daily_limit": "500"}
    return System(vault, limits, ring, vault.address)


def test_a_vault_that_fits_is_accepted(system: System) -> None:
    """Only the active key pays, if there is one; caps may be lower than limits."""
    system.check()
    replace(system, ring=()).check()
    replace(system, address=None, ring=()).check(code=AssertionError())
    former = key_at(NO_VAULT, state=KeyState.RETIRED)
    replace(system, ring=[*system.ring, former]).check()
    for limits in (
        {"max_amount": "101", "daily_limit": "501"},
        {"max_amount": "100"},
    ):
        replace(system, limits=limits).check()


@pytest.mark.parametrize("address", [NO_VAULT, "token"])
def test_other_code_is_refused(system: System, address: str) -> None:
    """Also that of another contract, whose answers mean nothing."""
    given = to_checksum_address(system.vault.token) if address == "token" else address
    found = replace(system, address=given).refusals()

    assert found.keys() == {"vault-code-wrong"}
    assert found["vault-code-wrong"].startswith("networks.local.vault: the address")


@pytest.mark.parametrize("state", KeyState)
def test_a_guardian_that_is_a_key_is_refused(system: System, state: KeyState) -> None:
    """In every state: what was a key once may be stolen."""
    guardian = key_at(to_checksum_address(system.vault.guardian), state=state)
    active = [] if state is KeyState.ACTIVE else system.ring
    found = replace(system, ring=[*active, guardian]).refusals()

    assert "hotwallet vault propose --network local --guardian ADDRESS" in (
        found.pop("vault-guardian-own")
    )
    assert set(found) <= {"vault-operator-missing"}


def test_an_active_key_that_may_not_pay_is_refused(system: System) -> None:
    (operator,) = system.ring
    system.vault.call(
        system.vault.guardian, "removeOperator(address)", operator.address
    )

    assert system.refusals() == {
        "vault-operator-missing": (
            f"networks.local.vault: the key of {operator.address} may not pay; its"
            " guardian adds it: `hotwallet vault propose --network local"
            f" --add-operator {operator.address}`"
        )
    }


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (
            {"max_amount": "99.999999", "daily_limit": "500"},
            "an item is 100.000000, above max_amount, which is 99.999999",
        ),
        (
            {"max_amount": "100", "daily_limit": "499.999999"},
            "a day is 500.000000, above daily_limit, which is 499.999999",
        ),
    ],
)
def test_a_cap_above_a_limit_is_refused(
    system: System, limits: dict[str, str], words: str
) -> None:
    """By one base unit: the chain would allow more than the operator believes."""
    found = replace(system, limits=limits).refusals()

    assert found.keys() == {"vault-caps-above-limits"}
    assert words in found["vault-caps-above-limits"]


@pytest.mark.parametrize("caps", [(0, 500 * UNIT), (100 * UNIT, 0), (0, 0)])
def test_a_token_without_caps_is_refused(system: System, caps: tuple[int, int]) -> None:
    """Nothing could be paid."""
    vault = system.vault
    vault.call(vault.guardian, "setCaps(address,uint96,uint96)", vault.token, *caps)
    found = system.refusals()

    assert found.keys() == {"vault-caps-missing"}
    assert "--caps TUSD=ITEM/DAY" in found["vault-caps-missing"]


@pytest.mark.parametrize("is_production", [True, False])
def test_production_needs_a_delay(
    fresh_anvil: DevChain, system: System, *, is_production: bool
) -> None:
    """A laptop need not wait for two days."""
    vault = deploy_vault(
        fresh_anvil.url,
        fresh_anvil.token,
        caps=(100 * UNIT, 500 * UNIT),
        funds=0,
        delay=3599,
    )
    other = replace(
        system, vault=vault, address=vault.address, is_production=is_production
    )

    if is_production:
        assert other.refusals().keys() == {"vault-delay-missing"}
    else:
        other.check()


@pytest.mark.parametrize("method", ["code", "call"])
def test_a_vault_that_cannot_be_asked_is_refused(system: System, method: str) -> None:
    """A later start may pass."""
    with pytest.raises(ConfigurationError) as caught:
        system.check(**{method: ChainUnavailableError("no node answers")})

    assert [each.code for each in caught.value.refusals] == ["chain-unavailable"]
    assert caught.value.is_transient
