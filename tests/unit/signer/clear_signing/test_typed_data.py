"""Typed data that moves tokens is recognised by its type string."""

import pytest

from signer.amounts import MAX_UINT256
from signer.clear_signing.typed_data import Grant, Meaning, recognise
from signer.crypto.keccak import keccak
from signer.crypto.typed_data import TypedData
from tests.unit.signer.clear_signing import documents as d


# Constants of the contracts: PERMIT_TYPEHASH, SAFE_TX_TYPEHASH and so on.
TYPE_HASHES = {
    "6e71edae12b1b97f4d1f60370fef10105fa2faae0126114a169c64845d6126c9": d.ERC2612,
    "ea2aa0a1be11a07ed86d755c93467f4f82362b452371d1ba94d1715123511acb": d.DAI_PERMIT,
    "f3841cd1ff0085026a6327b620b67997ce40f282c88a8e905a7a5626e310f3d0": d.SINGLE,
    "af1b0d30d2cab0380e68f0689007e3254993c596f2fdd0aaa7f4d04f79440863": d.BATCH,
    "939c21a48a8dbe3a9a2404a1d46691e4d39f6583d6ec6b35714604c986d80106": d.TRANSFER,
    "fcf35f5ac6a2c28868dc44c302166470266239195f02b0ee408334829333b766": (
        d.BATCH_TRANSFER
    ),
    "7c7c6cdb67a18743f49ec6fa9b35f50d52ed05cbed4cc592e13b44501c1a2267": d.ERC3009,
    "d099cc98ef71107a616c4f0f941f04c322d8e254fe26b3c6668db87aae413de8": (
        d.ERC3009_RECEIVE
    ),
    "bb8310d486368db6bd6f849402fdd73ad53d316b5a4b2644ad6efe0f941286d8": d.SAFE,
    "14d461bc7412367e924637b363c7bf29b8f47e2f84869f4426e5633d8af47b20": d.SAFE.replace(
        "baseGas", "dataGas"
    ),
    "fa445660b7e21515a59617fcd68910b487aa5808b8abda3d78bc85df364b2c2f": d.ORDER,
    "d5a25ba2e97094ad7d83dc28a6572da797d6b3e7fc6663bd93efb789fc17e489": d.COW_ORDER,
    "23d10def3caacba2e4042e0c75d44a42d2558aabcf5ce951d0642a8032e1e653": (
        d.META_TRANSACTION
    ),
    "808c10407a796f3ef2c7ea38c0638ea9d2b8a1c63e3ca9e1f56ce84ae59df73c": (
        d.APPROVE_WITH_AUTHORIZATION
    ),
    "424222bb050a1f7f14017232a5671f2680a2d3420f504bd565cf03035c53198a": (
        d.INCREASE_WITH_AUTHORIZATION
    ),
    "49ecf333e5b8c95c40fdafc95c1ad136e8914a8fb55e9dc8bb01eaa83a2df9ad": d.NFT_PERMIT,
    "323db0410fecc107e39e2af5908671f4c8d106123b35a51501bb805c5fa36aa0": (
        d.CREDIT_DELEGATION
    ),
    "81d0284fb0e2cde18d0553b06189d6f7613c96a01bb5b5e7828eade6a0dcac91": (
        d.MORPHO_MANAGER
    ),
    "e48329057bfd03d55e49b547132e39cffd9c1820ad7b9d4c5307691425d15adf": d.VOTES,
    "dd8f4b70b0f4393e889bd39128a30628a78b61816a9eb8199759e7a349657e48": d.FORWARD_4,
    "7f96328b83274ebc7c1cf4f7a3abda602b51a78b7fa1d86a2ce353d75e587cac": d.FORWARD_5,
    "29a0bca4af4be3421398da00295e58e6d7de38cb492214754cb6a47507dd6f8e": (
        d.USER_OPERATION
    ),
}


@pytest.mark.parametrize(("type_hash", "type_string"), TYPE_HASHES.items())
def test_type_strings_are_those_of_the_contracts(
    type_hash: str, type_string: str
) -> None:
    """The documents below have the type hashes that the contracts verify."""
    assert keccak(type_string.encode()).hex() == type_hash


USDC_5 = (Grant(d.USDC, 5_000_000),)
SEVEN = (Grant(d.USDC, 7),)
TWO = (Grant(d.USDC, 7), Grant(d.DAI, 8))
PERMITTED = {"token": d.USDC, "amount": 7}
BOTH = [PERMITTED, {"token": d.DAI, "amount": 8}]

_TRADE = {"witness": {"price": 3}}


def _permit2(kind: str, grants: tuple[Grant, ...]) -> Meaning:
    return Meaning(kind, spender=d.SPENDER, grants=grants, deadline=d.DEADLINE)


def _for_others(type_string: str, **changes: object) -> TypedData:
    return d.document(type_string, d.signed_for_others(type_string, **changes))


_TWICE = d.multicall_of(d.TRANSFER_7, "0x12345678", d.multicall_of(d.TRANSFER_7))
_MALFORMED = d.TRANSFER_7[:-2]
_DEEP = d.TRANSFER_7
for _ in range(6):
    _DEEP = d.multicall_of(_DEEP)
_NONE = "0x" + "0" * 40


def _called(
    kind: str,
    data: str,
    grants: int = 0,
    deadline: int | None = None,
    recipient: str = d.SPENDER.lower(),
) -> Meaning:
    return Meaning(
        kind,
        None,
        recipient,
        SEVEN * grants,
        deadline,
        (d.USDC, 7 if kind == "forward-request" else 0, bytes.fromhex(data[2:])),
    )


FOR_OTHERS = [
    (
        _for_others(d.COW_ORDER),
        Meaning("cow-order", None, d.SPENDER, SEVEN, d.DEADLINE),
    ),
    (
        _for_others(d.COW_ORDER, receiver=_NONE),
        Meaning("cow-order", None, None, SEVEN, d.DEADLINE),
    ),
    *(
        (_for_others(each), Meaning("1inch-order", None, d.SPENDER, SEVEN))
        for each in (d.INCH_ORDER, d.INCH_ORDER_3)
    ),
    *(
        (_for_others(each), Meaning(kind, d.SPENDER, None, SEVEN, d.DEADLINE))
        for each, kind in (
            (d.APPROVE_WITH_AUTHORIZATION, "approve-with-authorization"),
            (d.INCREASE_WITH_AUTHORIZATION, "approve-with-authorization"),
            (d.CREDIT_DELEGATION, "aave-credit-delegation"),
        )
    ),
    (
        _for_others(d.NFT_PERMIT),
        Meaning("nft-permit", d.SPENDER, None, (Grant(d.USDC, 1),), d.DEADLINE),
    ),
    *(
        (_for_others(each), Meaning(kind, d.SPENDER, None, (), d.DEADLINE))
        for each, kind in (
            (d.NFT_PERMIT_FOR_ALL, "nft-permit-for-all"),
            (d.COMPOUND_MANAGER, "lending-manager"),
            (d.MORPHO_MANAGER, "lending-manager"),
        )
    ),
    (
        _for_others(d.VOTES),
        Meaning("votes-delegation", None, d.SPENDER, (), d.DEADLINE),
    ),
    (_for_others(d.USER_OPERATION), Meaning("user-operation", None, d.SPENDER)),
    *(
        (
            _for_others(d.META_TRANSACTION, functionSignature=data),
            _called("meta-transaction", data, count, recipient=to),
        )
        for data, count, to in (
            (d.TRANSFER_7, 1, d.SPENDER.lower()),
            (_TWICE, 2, d.SPENDER.lower()),
            ("0x12345678", 0, d.USDC),
            (_MALFORMED, 0, d.USDC),
            (_DEEP, 0, d.USDC),
        )
    ),
    *(
        (
            _for_others(each, data=d.TRANSFER_7),
            _called("forward-request", d.TRANSFER_7, 1, deadline),
        )
        for each, deadline in (
            (d.FORWARD_4, None),
            (d.FORWARD_5, d.DEADLINE),
            (d.FORWARD_GSN, d.DEADLINE),
        )
    ),
    (
        d.document(d.META_TRANSACTION, d.signed_for_others(d.META_TRANSACTION), None),
        Meaning("meta-transaction", None, _NONE, (), None, (_NONE, 0, b"")),
    ),
]


@pytest.mark.parametrize("number", range(len(FOR_OTHERS)))
def test_what_lets_others_move_tokens(number: int) -> None:
    """Orders, permits of other kinds, and calls that others send for the account."""
    document, meaning = FOR_OTHERS[number]

    assert recognise(document) == meaning


KNOWN = [
    (
        d.document(d.ERC2612, d.permit()),
        Meaning("erc2612-permit", d.SPENDER, None, USDC_5, d.DEADLINE),
    ),
    (
        d.document(d.DAI_PERMIT, d.dai_permit(), d.DAI),
        Meaning(
            "dai-permit", d.SPENDER, None, (Grant(d.DAI, MAX_UINT256),), d.DEADLINE
        ),
    ),
    (
        d.document(d.DAI_PERMIT, d.dai_permit(allowed=False, expiry=0), d.DAI),
        Meaning("dai-permit", d.SPENDER, None, (Grant(d.DAI, 0),), None),
    ),
    (
        d.document(d.SINGLE, d.allowance(d.details()), d.PERMIT2),
        _permit2("permit2-single", SEVEN),
    ),
    (
        d.document(d.BATCH, d.allowance([d.details(), d.details(d.DAI, 8)]), d.PERMIT2),
        _permit2("permit2-batch", TWO),
    ),
    (
        d.document(d.TRANSFER, d.transfer(PERMITTED), d.PERMIT2),
        _permit2("permit2-transfer", SEVEN),
    ),
    (
        d.document(d.BATCH_TRANSFER, d.transfer(BOTH), d.PERMIT2),
        _permit2("permit2-batch-transfer", TWO),
    ),
    (
        d.document(d.WITNESS, d.transfer(PERMITTED, **_TRADE), d.PERMIT2),
        _permit2("permit2-witness-transfer", SEVEN),
    ),
    (
        d.document(d.BATCH_WITNESS, d.transfer(BOTH, **_TRADE), d.PERMIT2),
        _permit2("permit2-batch-witness-transfer", TWO),
    ),
    (
        d.document(d.ERC3009, d.authorization()),
        Meaning(
            "erc3009-transfer",
            None,
            d.SPENDER,
            (Grant(d.USDC, 12_500_000),),
            d.DEADLINE,
        ),
    ),
    (
        d.document(d.ERC3009_RECEIVE, d.authorization(), None),
        Meaning(
            "erc3009-receive", None, d.SPENDER, (Grant(None, 12_500_000),), d.DEADLINE
        ),
    ),
    (
        d.document(d.SAFE, d.safe(), d.OWNER),
        Meaning(
            "safe-transaction",
            recipient=d.SPENDER,
            called=(d.SPENDER, 10**18, b""),
        ),
    ),
    (
        d.document(d.ORDER, d.order()),
        Meaning("seaport-order", grants=(Grant(d.USDC, 4),), deadline=d.DEADLINE),
    ),
    (
        d.document(
            d.BULK_ORDER,
            {"tree": [[d.order(), d.order(9)], [d.order(until=d.DEADLINE + 1)] * 2]},
        ),
        Meaning(
            "seaport-bulk-order",
            grants=tuple(Grant(d.USDC, amount) for amount in (4, 9, 4, 4)),
            deadline=d.DEADLINE + 1,
        ),
    ),
]


@pytest.mark.parametrize("number", range(len(KNOWN)))
def test_known_kinds(number: int) -> None:
    """The kind, the spender, the tokens, the amounts and the deadline are read."""
    document, meaning = KNOWN[number]

    assert recognise(document) == meaning


def test_token_and_amount_of_one_token() -> None:
    """A batch of several tokens has no single token and amount."""
    one = _permit2("permit2-batch", SEVEN * 2)

    assert (one.token, one.amount) == (d.USDC, 14)
    assert (_permit2("permit2-batch", TWO).token, Meaning("x").token) == (None, None)
    assert (_permit2("permit2-batch", TWO).amount, Meaning("x").amount) == (None, None)


_OTHER_PERMISSIONS = "TokenPermissions(address token,uint256 amount,uint256 more)"

UNKNOWN: list[tuple[str, dict[str, object]]] = [
    (d.ERC2612.replace("uint256 value", "uint128 value"), d.permit()),
    (d.ERC2612.replace("Permit(", "Permission("), d.permit()),
    ("Permit(address spender,uint256 value)", {"spender": d.SPENDER, "value": 1}),
    (
        d.WITNESS.replace("uint256 deadline,Trade witness", "Trade witness"),
        {
            "permitted": PERMITTED,
            "spender": d.SPENDER,
            "nonce": 1,
            "witness": {"price": 1},
        },
    ),
    (
        "PermitWitnessTransferFrom(TokenPermissions permitted,address spender,"
        "uint256 nonce,uint256 deadline,uint256 witness)" + _OTHER_PERMISSIONS,
        d.transfer({**PERMITTED, "more": 1}, witness=1),
    ),
    ("BulkOrder(uint256 tree)", {"tree": 1}),
    ("BulkOrder(uint256 tree,uint256 more)", {"tree": 1, "more": 1}),
    (
        "BulkOrder(OrderComponents[2] tree)OrderComponents(uint256 a)",
        {"tree": [{"a": 1}, {"a": 1}]},
    ),
]


@pytest.mark.parametrize("number", range(len(UNKNOWN)))
def test_other_types_with_the_same_names_are_unknown(number: int) -> None:
    """A name alone means nothing."""
    type_string, message = UNKNOWN[number]

    assert recognise(d.document(type_string, message)) == Meaning("unknown")
    types = d.types_of(d.ERC2612)
    types["Permit"].reverse()  # The contract would not accept the signature.
    assert recognise(TypedData.of({}, types, d.permit())).kind == "unknown"
