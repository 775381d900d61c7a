"""A program that asks an account of ``HSMAccount`` for what gives the wallet away."""

from typing import Any, cast

import bitcurve
import pytest
from eth_account.messages import encode_defunct, encode_typed_data
from eth_keys.datatypes import Signature
from eth_typing import Hash32

from signer.account import HSMAccount
from signer.crypto.messages import PersonalMessage
from signer.errors import ConfigurationError, InvalidInputError, PolicyViolationError
from signer.policy.default_rules import account_policy
from tests.support.devices import honest, signer_over
from tests.support.policy import CASES, NETWORKS, Case


KEY = bitcurve.PrivateKey(b"\x46" * 32)
OTHER = "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC"
TOKEN = NETWORKS["local"].tokens["TUSD"].address
DELEGATION = {"chainId": 31337, "address": OTHER, "nonce": 1}


def _account(own: str = "", **options: Any) -> HSMAccount:
    return HSMAccount(
        signer_over(honest(KEY)), policy=account_policy(own) if own else None, **options
    )


def _sign(account: HSMAccount, case: Case) -> Any:
    given = case.given
    if "transaction" in given:
        return account.sign_transaction(cast("Any", case.fields()))
    if "message" in given:
        body = PersonalMessage.parse(given["message"]).body
        return account.sign_message(encode_defunct(body))
    if "typed_data" in given:
        return account.sign_typed_data(full_message=given["typed_data"])
    if "digest" in given:
        digest = bytes.fromhex(given["digest"][2:])
        return account.unsafe_sign_hash(cast("Hash32", digest))
    return account.sign_authorization(given["authorization"])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_account_decides_as_written(case: Case) -> None:
    """A refusal reaches no device, and names its rule."""
    device = honest(KEY)
    account = HSMAccount(signer_over(device))
    rule = case.rules["account"]

    if rule.startswith("+"):
        assert _sign(account, case)
        assert device.calls == 1
    else:
        with pytest.raises(PolicyViolationError) as refused:
            _sign(account, case)
        assert refused.value.rule == rule
        assert device.calls == 0


def test_hashes_of_typed_data_are_not_signed() -> None:
    """They could be those of a permit: ``sign_typed_data`` shows the document."""
    message = encode_typed_data(
        {"name": "x"}, {"Pay": [{"name": "amount", "type": "uint256"}]}, {"amount": 1}
    )

    with pytest.raises(PolicyViolationError, match="typed-data"):
        _account().sign_message(message)


def test_a_refusal_says_how_to_permit_it() -> None:
    """The error names what a permit can allow, and not what none can."""
    approve = next(case for case in CASES if case.name.endswith(": approve one unit"))
    malformed = next(case for case in CASES if case.name.endswith(": one byte short"))

    with pytest.raises(PolicyViolationError, match="an own permit can allow it"):
        _sign(_account(), approve)
    with pytest.raises(PolicyViolationError, match=r"\(rule calldata\)"):
        _sign(_account(), malformed)


APPROVALS = f"""
@id("approve-router")
permit (principal, action == Action::"sign-transaction", resource)
when {{
  context has function && context.function == "approve(address,uint256)"
  && context has spender && context.spender == "{OTHER}"
  && context has to && context.to == "{TOKEN}"
  && context has amount && context.amount.lessThanOrEqual(decimal("5.0"))
}};
"""


@pytest.mark.parametrize(
    ("amount", "is_signed"), [(5_000_000, True), (5_000_001, False)]
)
def test_one_spender_can_be_permitted(amount: int, is_signed: bool) -> None:
    """With a networks file, amounts are in whole tokens, and rounded up."""
    account = _account(APPROVALS, networks=NETWORKS)
    data = "0x095ea7b3" + OTHER[2:].lower().rjust(64, "0") + f"{amount:064x}"
    fields = {
        "to": TOKEN,
        "data": data,
        "chainId": 31337,
        "nonce": 0,
        "gas": 60_000,
        "maxFeePerGas": 2,
        "maxPriorityFeePerGas": 1,
    }

    if is_signed:
        assert account.sign_transaction(cast("Any", fields))
    else:
        with pytest.raises(PolicyViolationError) as refused:
            account.sign_transaction(cast("Any", fields))
        assert refused.value.rule == "allowance"


def test_a_delegation_can_be_permitted() -> None:
    """Then the authorisation is the one that eth-account signs."""
    account = _account(
        '@id("delegate") permit (principal, action == Action::"sign-authorization",'
        f' resource) when {{ context.delegate == "{OTHER}" }};'
    )

    signed = account.sign_authorization(DELEGATION)

    assert isinstance(signed.signature, Signature)
    assert signed.authority == bytes.fromhex(account.address[2:])
    assert (signed.chain_id, signed.nonce) == (31337, 1)


@pytest.mark.parametrize(
    "change", [{"chainId": "x"}, {"nonce": -1}, {"address": "0x12"}, {"address": None}]
)
def test_a_malformed_authorisation_is_refused(change: dict[str, Any]) -> None:
    """It is the caller's mistake, and the policy is not asked."""
    with pytest.raises(InvalidInputError):
        _account().sign_authorization({**DELEGATION, **change})


def test_an_own_rule_can_forbid_more() -> None:
    """Its name is the refusal's, and its message is shown."""
    account = _account(
        '@id("office-hours") @message("ask on Monday")'
        ' forbid (principal, action == Action::"sign-message", resource)'
        ' when { context.text like "*pay*" };'.replace(
            "context.text like", "context has text && context.text like"
        )
    )

    with pytest.raises(PolicyViolationError, match="ask on Monday") as refused:
        account.sign_message(encode_defunct(text="please pay"))

    assert refused.value.rule == "office-hours"
    assert account.sign_message(encode_defunct(text="hello"))


def test_an_own_rule_that_is_wrong_opens_no_account() -> None:
    """The message has its line."""
    with pytest.raises(ConfigurationError, match="policy, line 2"):
        _account("\npermit (principal, action, resource);")
