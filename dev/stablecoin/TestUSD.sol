// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

/// @title A stablecoin for development and tests; never for production
/// @notice ERC-20 with 6 decimals, and the ways to refuse that real ones have: a pause,
///         a blocklist. It refuses in all three forms that a client must decode: a
///         reason string, a custom error, and a panic (an allowance that underflows).
contract TestUSD {
    string public constant name = "Test USD";
    string public constant symbol = "TUSD";
    uint8 public constant decimals = 6;

    address public immutable issuer = msg.sender;
    bool public paused;
    uint256 public totalSupply;
    mapping(address => bool) public isBlocked;
    mapping(address => uint256) public balanceOf;
    mapping(address => mapping(address => uint256)) public allowance;

    event Transfer(address indexed from, address indexed to, uint256 value);
    event Approval(address indexed owner, address indexed spender, uint256 value);

    error Blocked(address account);

    modifier onlyIssuer() {
        require(msg.sender == issuer, "TestUSD: only the issuer");
        _;
    }

    function mint(address to, uint256 value) external onlyIssuer {
        totalSupply += value;
        balanceOf[to] += value;
        emit Transfer(address(0), to, value);
    }

    function setPaused(bool on) external onlyIssuer {
        paused = on;
    }

    function setBlocked(address account, bool on) external onlyIssuer {
        isBlocked[account] = on;
    }

    function approve(address spender, uint256 value) external returns (bool) {
        allowance[msg.sender][spender] = value;
        emit Approval(msg.sender, spender, value);
        return true;
    }

    function transfer(address to, uint256 value) external returns (bool) {
        move(msg.sender, to, value);
        return true;
    }

    function transferFrom(address from, address to, uint256 value) external returns (bool) {
        allowance[from][msg.sender] -= value;
        move(from, to, value);
        return true;
    }

    function move(address from, address to, uint256 value) private {
        require(!paused, "TestUSD: paused");
        if (isBlocked[from]) revert Blocked(from);
        if (isBlocked[to]) revert Blocked(to);
        require(to != address(0), "TestUSD: transfer to the zero address");
        require(balanceOf[from] >= value, "TestUSD: balance too low");
        balanceOf[from] -= value;
        balanceOf[to] += value;
        emit Transfer(from, to, value);
    }
}
