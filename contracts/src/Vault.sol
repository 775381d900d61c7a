// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

/// @title Holds tokens, and lets a hot wallet pay them out within caps
/// @notice An operator (the hot wallet's key) pays; a guardian (a multisig elsewhere) sets
///         the rules.  README.md has the rules, and what a thief of each key gains.
contract Vault {
    /// @notice The end of an item.  `NotTrue`: the token answered something else than
    ///         true, and may have moved the amount, so it counts towards the day.
    enum End {
        Paid,
        NotWithinItemCap,
        AboveDayCap,
        NoCode,
        Reverted,
        NotTrue
    }

    struct Caps {
        uint96 perItem;
        uint96 perDay;
    }

    struct Spending {
        uint96 amount;
        uint64 day;
    }

    struct TokenCaps {
        address token;
        Caps caps;
    }

    /// @notice An item is 20 bytes of address, 12 of amount, 16 of mark.
    uint256 public constant ITEM_SIZE = 48;

    /// @notice What the token may use for one item: twice what a new holder costs once
    ///         new state does (EIP-8037).
    uint256 public constant ITEM_GAS = 300_000;

    /// @notice What must be left before an item: a call forwards at most 63/64 of it.
    uint256 public constant MIN_GAS = 320_000;

    // No immutables: each vault has the same code.
    address public guardian;
    uint64 public delay;
    mapping(address operator => bool) public isOperator;
    mapping(address token => Caps) public caps;
    mapping(address token => Spending) public spending;
    /// @notice By the hash of a proposed call, the second from which it may be made.  The
    ///         proposals of a guardian end with it.
    mapping(address guardian => mapping(bytes32 change => uint256)) public dueAt;
    bool private transient entered;

    /// @notice Each item emits one of these, in the order of the items.
    event Paid(bytes16 indexed mark);
    event Skipped(bytes16 indexed mark, uint256 index, End reason);
    event CapsSet(address indexed token, uint96 perItem, uint96 perDay);
    event OperatorAdded(address indexed operator);
    event OperatorRemoved(address indexed operator);
    event GuardianSet(address indexed guardian);
    event Proposed(bytes call, uint256 dueAt);
    event Cancelled(bytes call);
    event Withdrawn(address indexed token, uint256 amount);

    error Entered();
    error NotAllowed();
    error NotItems();
    error TooLittleGas();
    error NotDue(uint256 dueAt);
    error NotWithdrawn(End reason);

    /// Nothing that changes this contract runs while a token runs.
    modifier locked() {
        if (entered) revert Entered();
        entered = true;
        _;
        entered = false;
    }

    modifier onlyGuardian() {
        if (msg.sender != guardian) revert NotAllowed();
        _;
    }

    constructor(
        address guardian_,
        uint64 delay_,
        address[] memory operators,
        TokenCaps[] memory tokens
    ) {
        if (guardian_ == address(0)) revert NotAllowed();
        guardian = guardian_;
        delay = delay_;
        emit GuardianSet(guardian_);
        for (uint256 i = 0; i < operators.length; ++i) {
            isOperator[operators[i]] = true;
            emit OperatorAdded(operators[i]);
        }
        for (uint256 i = 0; i < tokens.length; ++i) {
            caps[tokens[i].token] = tokens[i].caps;
            emit CapsSet(tokens[i].token, tokens[i].caps.perItem, tokens[i].caps.perDay);
        }
    }

    /// @notice Pay each of `items` that the caps and the token allow, and skip the others.
    /// @dev It reverts only for a caller that is no operator, for bytes that are no items,
    ///      and for too little gas: a caller's gas must not decide how an item ends.
    function pay(address token, bytes calldata items) external locked {
        if (!isOperator[msg.sender]) revert NotAllowed();
        if (items.length % ITEM_SIZE != 0) revert NotItems();
        Caps memory cap = caps[token];
        uint256 perItem = cap.perItem;
        uint256 today = block.timestamp / 1 days;
        uint256 spent = spending[token].day == today ? spending[token].amount : 0;
        // A cap that was lowered may be below what was spent.
        uint256 left = cap.perDay > spent ? cap.perDay - spent : 0;
        uint256 total = spent + left;
        uint256 count = items.length / ITEM_SIZE;
        for (uint256 i = 0; i < count; ++i) {
            if (gasleft() < MIN_GAS) revert TooLittleGas();
            (address to, uint256 amount, bytes16 mark) = item(items, i);
            End end;
            if (amount == 0 || amount > perItem) end = End.NotWithinItemCap;
            else if (amount > left) end = End.AboveDayCap;
            else end = transfer(token, to, amount, ITEM_GAS);
            if (end == End.Paid) {
                left -= amount;
                emit Paid(mark);
            } else {
                if (end == End.NotTrue) left -= amount;
                emit Skipped(mark, i, end);
            }
        }
        spending[token] = Spending(uint96(total - left), uint64(today));
    }

    /// @notice Set the caps of a token.  Caps that are not raised apply at once.
    function setCaps(address token, uint96 perItem, uint96 perDay) external locked onlyGuardian {
        Caps memory old = caps[token];
        if (perItem > old.perItem || perDay > old.perDay) useProposal();
        caps[token] = Caps(perItem, perDay);
        emit CapsSet(token, perItem, perDay);
    }

    /// @notice Add an operator, after the delay.
    function addOperator(address operator) external locked onlyGuardian {
        useProposal();
        isOperator[operator] = true;
        emit OperatorAdded(operator);
    }

    /// @notice Remove an operator at once; an operator may remove itself.
    function removeOperator(address operator) external locked {
        bool resigns = msg.sender == operator && isOperator[operator];
        if (msg.sender != guardian && !resigns) revert NotAllowed();
        isOperator[operator] = false;
        emit OperatorRemoved(operator);
    }

    /// @notice Become the guardian.  The next one calls it, so its address is no typing error.
    function setGuardian(address next) external locked {
        if (msg.sender != next) revert NotAllowed();
        useProposal();
        guardian = next;
        emit GuardianSet(next);
    }

    /// @notice Announce a call: of `setCaps`, `addOperator`, or the next one's `setGuardian`.
    function propose(bytes calldata call) external locked onlyGuardian {
        uint256 due = block.timestamp + delay;
        dueAt[guardian][keccak256(call)] = due;
        emit Proposed(call, due);
    }

    /// @notice Withdraw a proposal at once.
    function cancel(bytes calldata call) external locked onlyGuardian {
        delete dueAt[guardian][keccak256(call)];
        emit Cancelled(call);
    }

    /// @notice Send an amount of any token to the guardian, and to no other address.
    function withdraw(address token, uint256 amount) external locked onlyGuardian {
        End end = transfer(token, guardian, amount, gasleft());
        if (end != End.Paid) revert NotWithdrawn(end);
        emit Withdrawn(token, amount);
    }

    /// A proposal is for one call.
    function useProposal() private {
        bytes32 change = keccak256(msg.data);
        uint256 due = dueAt[guardian][change];
        if (due == 0 || block.timestamp < due) revert NotDue(due);
        delete dueAt[guardian][change];
    }

    /// Slices with checked bounds would cost 640 gas for each item.
    function item(bytes calldata items, uint256 i)
        private
        pure
        returns (address to, uint256 amount, bytes16 mark)
    {
        bytes32 payment;
        bytes32 rest;
        assembly {
            let start := add(items.offset, mul(i, ITEM_SIZE))
            payment := calldataload(start)
            rest := calldataload(add(start, 32))
        }
        to = address(bytes20(payment));
        amount = uint96(uint256(payment));
        mark = bytes16(rest);
    }

    /// Solidity would copy all that the token returns, and pay for the memory.
    function transfer(address token, address to, uint256 amount, uint256 gasLimit)
        private
        returns (End)
    {
        bool success;
        uint256 size;
        uint256 answer;
        assembly ("memory-safe") {
            let data := mload(0x40)
            mstore(data, shl(224, 0xa9059cbb)) // transfer(address,uint256)
            mstore(add(data, 4), to)
            mstore(add(data, 36), amount)
            success := call(gasLimit, token, 0, data, 68, 0, 32)
            size := returndatasize()
            answer := mload(0)
        }
        if (!success) return End.Reverted;
        if (size == 0) return token.code.length > 0 ? End.Paid : End.NoCode;
        return size >= 32 && answer == 1 ? End.Paid : End.NotTrue;
    }
}
