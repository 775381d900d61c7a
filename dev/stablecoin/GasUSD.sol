// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

// The coin of a chain whose gas is paid in a stablecoin, as a token: one balance, in 18
// decimals as coin and in 6 as token.  It needs the precompile of Celo's chains, which
// moves coin: run anvil with --celo.
contract GasUSD {
    string public constant name = "Gas USD";
    string public constant symbol = "USDC";
    uint8 public constant decimals = 6;

    uint256 private constant UNIT = 1e12;

    event Transfer(address indexed from, address indexed to, uint256 value);

    function balanceOf(address account) external view returns (uint256) {
        return account.balance / UNIT;
    }

    function transfer(address to, uint256 value) external returns (bool) {
        require(msg.sender.balance >= value * UNIT, "transfer amount exceeds balance");
        (bool moved, ) = address(0xfd).call(abi.encode(msg.sender, to, value * UNIT));
        require(moved, "transfer amount exceeds balance");
        emit Transfer(msg.sender, to, value);
        return true;
    }
}
