// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

/// @title A stablecoin that costs as much gas as USDC; never for production
/// @notice A proxy, with the token's code and storage laid out as Circle's are: a pause,
///         and the blocklist in the highest bit of each balance.  It reads and writes the
///         same slots as often, so that the gas of a transfer is that of FiatTokenV2_2.
contract FiatUSD {
    // Slots that the variables of FiatCode do not reach.
    uint256 private constant ADMIN = uint256(keccak256("FiatUSD.admin"));
    uint256 private constant CODE = uint256(keccak256("FiatUSD.code"));

    constructor() {
        address code = address(new FiatCode(msg.sender));
        (uint256 admin, uint256 slot) = (ADMIN, CODE);
        assembly {
            sstore(admin, 1)
            sstore(slot, code)
        }
    }

    fallback() external {
        (uint256 admin, uint256 slot) = (ADMIN, CODE);
        assembly {
            // The admin of such a proxy cannot use the token.
            if eq(caller(), sload(admin)) { revert(0, 0) }
            calldatacopy(0, 0, calldatasize())
            let success := delegatecall(gas(), sload(slot), 0, calldatasize(), 0, 0)
            returndatacopy(0, 0, returndatasize())
            if iszero(success) { revert(0, returndatasize()) }
            return(0, returndatasize())
        }
    }
}

contract FiatCode {
    string public constant name = "Fiat USD";
    string public constant symbol = "FUSD";
    uint8 public constant decimals = 6;
    uint256 private constant BLOCKED = 1 << 255;

    address public immutable issuer;
    address private pauser; // In one slot with `paused`.
    bool public paused;
    uint256 public totalSupply;
    mapping(address => uint256) private states;
    mapping(address => mapping(address => uint256)) public allowance;

    event Transfer(address indexed from, address indexed to, uint256 value);
    event Approval(address indexed owner, address indexed spender, uint256 value);

    constructor(address issuer_) {
        issuer = issuer_;
    }

    modifier onlyIssuer() {
        require(msg.sender == issuer, "FiatUSD: only the issuer");
        _;
    }

    modifier whenNotPaused() {
        require(!paused, "FiatUSD: paused");
        _;
    }

    modifier notBlocked(address account) {
        require(!isBlocked(account), "FiatUSD: account is blocked");
        _;
    }

    function mint(address to, uint256 value) external onlyIssuer {
        totalSupply += value;
        setBalance(to, balanceOf(to) + value);
        emit Transfer(address(0), to, value);
    }

    function setPaused(bool on) external onlyIssuer {
        paused = on;
    }

    function setBlocked(address account, bool on) external onlyIssuer {
        states[account] = on ? states[account] | BLOCKED : balanceOf(account);
    }

    function approve(address spender, uint256 value) external whenNotPaused returns (bool) {
        allowance[msg.sender][spender] = value;
        emit Approval(msg.sender, spender, value);
        return true;
    }

    function transfer(address to, uint256 value)
        external
        whenNotPaused
        notBlocked(msg.sender)
        notBlocked(to)
        returns (bool)
    {
        move(msg.sender, to, value);
        return true;
    }

    function transferFrom(address from, address to, uint256 value)
        external
        whenNotPaused
        notBlocked(msg.sender)
        notBlocked(from)
        notBlocked(to)
        returns (bool)
    {
        allowance[from][msg.sender] -= value;
        move(from, to, value);
        return true;
    }

    function balanceOf(address account) public view returns (uint256) {
        return states[account] & ~BLOCKED;
    }

    function isBlocked(address account) public view returns (bool) {
        return states[account] >> 255 == 1;
    }

    function move(address from, address to, uint256 value) private {
        require(from != address(0) && to != address(0), "FiatUSD: the zero address");
        require(value <= balanceOf(from), "FiatUSD: balance too low");
        setBalance(from, balanceOf(from) - value);
        setBalance(to, balanceOf(to) + value);
        emit Transfer(from, to, value);
    }

    function setBalance(address account, uint256 value) private {
        require(value < BLOCKED, "FiatUSD: too much");
        require(!isBlocked(account), "FiatUSD: account is blocked");
        states[account] = value;
    }
}
