// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Vault} from "../src/Vault.sol";

/// The cheat codes of forge that the tests use.
interface Vm {
    struct Log {
        bytes32[] topics;
        bytes data;
        address emitter;
    }

    function assume(bool condition) external pure;
    function etch(address target, bytes calldata code) external;
    function expectRevert(bytes calldata data) external;
    function getRecordedLogs() external returns (Log[] memory);
    function prank(address sender) external;
    function recordLogs() external;
    function warp(uint256 time) external;
}

Vm constant vm = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));

interface Token {
    function mint(address to, uint256 value) external;
    function balanceOf(address account) external view returns (uint256);
}

/// A vault with one token, and what tests do with it.
abstract contract VaultTest {
    uint96 internal constant PER_ITEM = 1_000e6;
    uint96 internal constant PER_DAY = 50_000e6;
    uint64 internal constant DELAY = 2 days;
    uint256 internal constant START = 20_000 days + 1 hours;

    address internal constant GUARDIAN = address(0x6a);
    address internal constant OPERATOR = address(0x0b);
    address internal constant STANDBY = address(0x5b);
    address internal constant STRANGER = address(0x57);

    Vault internal vault;
    Token internal token;

    function deploy(address token_) internal {
        vm.warp(START);
        token = Token(token_);
        address[] memory operators = new address[](2);
        (operators[0], operators[1]) = (OPERATOR, STANDBY);
        Vault.TokenCaps[] memory tokens = new Vault.TokenCaps[](1);
        tokens[0] = Vault.TokenCaps(token_, Vault.Caps(PER_ITEM, PER_DAY));
        vault = new Vault(GUARDIAN, DELAY, operators, tokens);
        token.mint(address(vault), 1e15);
    }

    function item(address to, uint256 amount, uint256 mark) internal pure returns (bytes memory) {
        return abi.encodePacked(to, uint96(amount), bytes16(uint128(mark)));
    }

    function payee(uint256 n) internal pure returns (address) {
        return address(uint160(0xabcdef0000 + n));
    }

    /// Pay, and return how each item ended: from the events alone.
    function pay(address operator, bytes memory items) internal returns (Vault.End[] memory ends) {
        vm.recordLogs();
        vm.prank(operator);
        vault.pay(address(token), items);
        Vm.Log[] memory logs = vm.getRecordedLogs();
        ends = new Vault.End[](items.length / vault.ITEM_SIZE());
        uint256 next;
        for (uint256 i; i < logs.length; ++i) {
            if (logs[i].emitter != address(vault)) continue;
            require(logs[i].topics[1] == markOf(items, next), "another mark");
            if (logs[i].topics[0] == Vault.Skipped.selector) {
                (uint256 index, Vault.End reason) = abi.decode(logs[i].data, (uint256, Vault.End));
                require(index == next && reason != Vault.End.Paid, "another index");
                ends[next] = reason;
            } else {
                require(logs[i].topics[0] == Vault.Paid.selector, "another event");
            }
            ++next;
        }
        require(next == ends.length, "an item without its event");
    }

    function markOf(bytes memory items, uint256 index) private pure returns (bytes32 found) {
        assembly {
            found := mload(add(items, add(64, mul(index, 48))))
        }
        return bytes32(bytes16(found));
    }

    /// Make the call that the guardian proposes, after the delay.
    function afterDelay(bytes memory change) internal {
        vm.prank(GUARDIAN);
        vault.propose(change);
        vm.warp(block.timestamp + DELAY);
        vm.prank(GUARDIAN);
        call(change);
    }

    function call(bytes memory change) internal {
        (bool success,) = address(vault).call(change);
        require(success, "the call was refused");
    }

    function check(bool condition, string memory what) internal pure {
        require(condition, what);
    }
}
