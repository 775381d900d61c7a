"""Typed documents of contracts that many wallets sign, with values to change."""

from typing import Any

from eth_abi.abi import encode as abi_encode

from signer.crypto.typed_data import TypedData


OWNER = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"
SPENDER = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
USDC = "0xA0b86991c6218b36c1d19D4a2e9Eb0cE3606eB48"
DAI = "0x6B175474E89094C44Da98b954EedeAC495271d0F"
PERMIT2 = "0x000000000022D473030F116dDEE9F6B43aC78BA3"
DEADLINE = 1_800_000_000

Types = dict[str, list[dict[str, str]]]


def types_of(type_string: str) -> Types:
    """Return the types of an encoded type string."""
    types = {}
    for struct in type_string.rstrip(")").split(")"):
        name, _, members = struct.partition("(")
        pairs = [member.split(" ") for member in members.split(",")]
        types[name] = [{"type": type_, "name": member} for type_, member in pairs]
    return types


def document(
    type_string: str, message: dict[str, Any], contract: str | None = USDC
) -> TypedData:
    """Return the document of a type string, with the domain of *contract*."""
    domain = {"name": "Example", "chainId": 1}
    if contract is not None:
        domain["verifyingContract"] = contract
    return TypedData.of(domain, types_of(type_string), message)


ERC2612 = (
    "Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)"
)
DAI_PERMIT = (
    "Permit(address holder,address spender,uint256 nonce,uint256 expiry,bool allowed)"
)
_PERMISSIONS = "TokenPermissions(address token,uint256 amount)"
_DETAILS = "PermitDetails(address token,uint160 amount,uint48 expiration,uint48 nonce)"
SINGLE = (
    "PermitSingle(PermitDetails details,address spender,uint256 sigDeadline)" + _DETAILS
)
BATCH = (
    "PermitBatch(PermitDetails[] details,address spender,uint256 sigDeadline)"
    + _DETAILS
)
_TRANSFER_MEMBERS = "address spender,uint256 nonce,uint256 deadline"
TRANSFER = (
    f"PermitTransferFrom(TokenPermissions permitted,{_TRANSFER_MEMBERS}){_PERMISSIONS}"
)
BATCH_TRANSFER = (
    f"PermitBatchTransferFrom(TokenPermissions[] permitted,{_TRANSFER_MEMBERS})"
    f"{_PERMISSIONS}"
)
WITNESS = (
    f"PermitWitnessTransferFrom(TokenPermissions permitted,{_TRANSFER_MEMBERS},"
    f"Trade witness){_PERMISSIONS}Trade(uint256 price)"
)
BATCH_WITNESS = (
    f"PermitBatchWitnessTransferFrom(TokenPermissions[] permitted,{_TRANSFER_MEMBERS},"
    f"Trade witness){_PERMISSIONS}Trade(uint256 price)"
)
_AUTHORIZATION = (
    "(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,"
    "bytes32 nonce)"
)
ERC3009 = f"TransferWithAuthorization{_AUTHORIZATION}"
ERC3009_RECEIVE = f"ReceiveWithAuthorization{_AUTHORIZATION}"
SAFE = (
    "SafeTx(address to,uint256 value,bytes data,uint8 operation,uint256 safeTxGas,"
    "uint256 baseGas,uint256 gasPrice,address gasToken,address refundReceiver,"
    "uint256 nonce)"
)
_ITEM = (
    "uint8 itemType,address token,uint256 identifierOrCriteria,uint256 startAmount,"
    "uint256 endAmount"
)
_CONSIDERATION = f"ConsiderationItem({_ITEM},address recipient)"
_OFFER = f"OfferItem({_ITEM})"
_ORDER = (
    "OrderComponents(address offerer,address zone,OfferItem[] offer,"
    "ConsiderationItem[] consideration,uint8 orderType,uint256 startTime,"
    "uint256 endTime,bytes32 zoneHash,uint256 salt,bytes32 conduitKey,"
    "uint256 counter)"
)
ORDER = _ORDER + _CONSIDERATION + _OFFER
BULK_ORDER = f"BulkOrder(OrderComponents[2][2] tree){_CONSIDERATION}{_OFFER}{_ORDER}"


def permit(**changes: object) -> dict[str, object]:
    """Return the message of ERC-2612: 5 USDC."""
    return signed_for_others(ERC2612, **{"owner": OWNER, "value": 5_000_000, **changes})


def dai_permit(**changes: object) -> dict[str, object]:
    """Return the message of DAI's permit."""
    return signed_for_others(DAI_PERMIT, holder=OWNER, **changes)


def details(token: str = USDC, amount: int = 7) -> dict[str, object]:
    """Return the details of an allowance of Permit2."""
    return {"token": token, "amount": amount, "expiration": DEADLINE, "nonce": 0}


def allowance(of: object) -> dict[str, object]:
    """Return the message of an allowance of Permit2."""
    return {"details": of, "spender": SPENDER, "sigDeadline": DEADLINE}


def transfer(permitted: object, **others: object) -> dict[str, object]:
    """Return the message of a transfer of Permit2."""
    return {
        "permitted": permitted,
        "spender": SPENDER,
        "nonce": 1,
        "deadline": DEADLINE,
        **others,
    }


def authorization() -> dict[str, object]:
    """Return the message of ERC-3009: 12.5 USDC."""
    given = {"from": OWNER, "to": SPENDER, "value": 12_500_000}
    return signed_for_others(ERC3009, **given)


def safe(**changes: object) -> dict[str, object]:
    """Return the message of a Safe transaction: one coin."""
    zero = "0x" + "00" * 20
    given = {"to": SPENDER, "value": 10**18, "nonce": 4}
    none = {"gasToken": zero, "refundReceiver": zero}
    return signed_for_others(SAFE, **{**given, **none, **changes})


def order(start: int = 3, end: int = 4, until: int = DEADLINE) -> dict[str, object]:
    """Return the message of a Seaport order that offers USDC for nothing."""
    amounts = {"startAmount": start, "endAmount": end}
    item = {"itemType": 1, "token": USDC, "identifierOrCriteria": 0, **amounts}
    return signed_for_others(
        _ORDER,
        offerer=OWNER,
        zone=OWNER,
        offer=[item],
        consideration=[{**item, "token": DAI, "recipient": OWNER}],
        endTime=until,
        salt=1,
    )


COW_ORDER = (
    "Order(address sellToken,address buyToken,address receiver,uint256 sellAmount,"
    "uint256 buyAmount,uint32 validTo,bytes32 appData,uint256 feeAmount,string kind,"
    "bool partiallyFillable,string sellTokenBalance,string buyTokenBalance)"
)
INCH_ORDER = (
    "Order(uint256 salt,address maker,address receiver,address makerAsset,"
    "address takerAsset,uint256 makingAmount,uint256 takingAmount,uint256 makerTraits)"
)
INCH_ORDER_3 = (
    "Order(uint256 salt,address makerAsset,address takerAsset,address maker,"
    "address receiver,address allowedSender,uint256 makingAmount,uint256 takingAmount,"
    "uint256 offsets,bytes interactions)"
)
META_TRANSACTION = "MetaTransaction(uint256 nonce,address from,bytes functionSignature)"
APPROVE_WITH_AUTHORIZATION = (
    "ApproveWithAuthorization(address owner,address spender,uint256 value,"
    "uint256 validAfter,uint256 validBefore,bytes32 nonce)"
)
INCREASE_WITH_AUTHORIZATION = (
    "IncreaseAllowanceWithAuthorization(address owner,address spender,"
    "uint256 increment,uint256 validAfter,uint256 validBefore,bytes32 nonce)"
)
NFT_PERMIT = "Permit(address spender,uint256 tokenId,uint256 nonce,uint256 deadline)"
NFT_PERMIT_FOR_ALL = (
    "PermitForAll(address operator,bool approved,uint256 nonce,uint256 deadline)"
)
CREDIT_DELEGATION = (
    "DelegationWithSig(address delegatee,uint256 value,uint256 nonce,uint256 deadline)"
)
COMPOUND_MANAGER = (
    "Authorization(address owner,address manager,bool isAllowed,uint256 nonce,"
    "uint256 expiry)"
)
MORPHO_MANAGER = (
    "Authorization(address authorizer,address authorized,bool isAuthorized,"
    "uint256 nonce,uint256 deadline)"
)
VOTES = "Delegation(address delegatee,uint256 nonce,uint256 expiry)"
_FORWARDED = "address from,address to,uint256 value,uint256 gas,uint256 nonce"
FORWARD_4 = f"ForwardRequest({_FORWARDED},bytes data)"
FORWARD_5 = f"ForwardRequest({_FORWARDED},uint48 deadline,bytes data)"
FORWARD_GSN = f"ForwardRequest({_FORWARDED},bytes data,uint256 validUntilTime)"
USER_OPERATION = (
    "PackedUserOperation(address sender,uint256 nonce,bytes initCode,bytes callData,"
    "bytes32 accountGasLimits,uint256 preVerificationGas,bytes32 gasFees,"
    "bytes paymasterAndData)"
)

# The values of members by name, whatever the type that has them.
_VALUES: dict[str, object] = {
    "sellToken": USDC,
    "makerAsset": USDC,
    "buyToken": DAI,
    "takerAsset": DAI,
    "tokenId": 9,
    "value": 7,
    "increment": 7,
    "sellAmount": 6,
    "feeAmount": 1,
    "makingAmount": 7,
    "to": USDC,
    "validTo": DEADLINE,
    "validBefore": DEADLINE,
    "validUntilTime": DEADLINE,
    "deadline": DEADLINE,
    "expiry": DEADLINE,
}
_BY_TYPE: dict[str, object] = {
    "address": SPENDER,
    "bool": True,
    "bytes": "0x",
    "bytes32": bytes(32),
    "string": "sell",
}


def signed_for_others(type_string: str, **changes: object) -> dict[str, object]:
    """Return a message of *type_string* that lets 7 units of USDC leave."""
    (members,) = types_of(type_string).values()
    return {
        each["name"]: changes.get(
            each["name"], _VALUES.get(each["name"], _BY_TYPE.get(each["type"], 0))
        )
        for each in members
    }


TRANSFER_7 = f"0xa9059cbb{SPENDER[2:].lower().rjust(64, '0')}{7:064x}"
"""Calldata that transfers 7 units."""


def multicall_of(*calls: str) -> str:
    """Return the calldata of a ``multicall`` of the calldata *calls*."""
    encoded = abi_encode(["bytes[]"], [[bytes.fromhex(each[2:]) for each in calls]])
    return f"0xac9650d8{encoded.hex()}"
