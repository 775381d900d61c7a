// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Vault} from "../src/Vault.sol";
import {VaultTest, vm} from "./Cheats.sol";
import {HostileToken} from "./HostileToken.sol";

/// Each role of a vault, with its calls in any order, and what it saw.
contract Actors is VaultTest {
    uint96 private constant MOST = 5 * PER_ITEM; // A call or two reach it.
    HostileToken public hostile = new HostileToken();
    mapping(uint256 day => uint256) private moved;
    uint256 public pledged; // The highest cap of the day that was in force today.
    uint256 private today;
    uint256 public withdrawn;
    bool public wrong;

    constructor() {
        deploy(address(hostile));
        vm.prank(GUARDIAN);
        vault.setCaps(address(token), PER_ITEM, MOST);
        pledged = MOST;
        hostile.setReentry(abi.encodeCall(Vault.pay, (address(hostile), "")));
    }

    function theVault() external view returns (Vault) {
        return vault;
    }

    function balanceLeft() external view returns (uint256) {
        return token.balanceOf(address(vault));
    }

    function movedToday() public view returns (uint256) {
        return moved[block.timestamp / 1 days];
    }

    function pay(bool standby, uint256 seed, uint8 count) external {
        address operator = standby ? STANDBY : OPERATOR;
        bytes memory items;
        for (uint256 i; i < count % 12; ++i) {
            uint256 n = uint256(keccak256(abi.encode(seed, i)));
            // A payee or two may be the same, and amounts reach both caps.
            items = bytes.concat(items, item(payee(n % 20), n / 20 % (PER_ITEM * 11 / 10), i));
        }
        uint256 before = token.balanceOf(address(vault));
        uint256 outside = balances();
        if (vault.isOperator(operator)) {
            pay(operator, items); // It checks the events, and must not revert.
        } else {
            refused(operator, abi.encodeCall(Vault.pay, (address(token), items)));
        }
        uint256 gone = before - token.balanceOf(address(vault));
        // All that left is with payees; a token that takes a fee keeps some.
        if (balances() - outside > gone) wrong = true;
        moved[block.timestamp / 1 days] += gone;
    }

    function behave(uint256 payee_, uint8 way) external {
        HostileToken.Way chosen = HostileToken.Way(way % 17);
        if (chosen == HostileToken.Way.VanishesAfter || chosen == HostileToken.Way.PausesAfter) {
            return;
        }
        hostile.setWay(payee(payee_ % 20), chosen);
    }

    function wait(uint32 seconds_) external {
        vm.warp(block.timestamp + seconds_ % 2 days);
        pledge(true);
    }

    function setCaps(uint96 perItem, uint96 perDay) external {
        (perItem, perDay) = (perItem % (2 * PER_ITEM), perDay % (2 * MOST));
        (uint96 item_, uint96 day) = vault.caps(address(token));
        bytes memory change = abi.encodeCall(Vault.setCaps, (address(token), perItem, perDay));
        if (perItem <= item_ && perDay <= day) {
            vm.prank(GUARDIAN);
            call(change);
        } else {
            refused(GUARDIAN, change);
            afterDelay(change);
            pledge(true);
        }
        pledge(false);
    }

    function removeOperator(bool standby) external {
        vm.prank(GUARDIAN);
        vault.removeOperator(standby ? STANDBY : OPERATOR);
    }

    function addOperator(bool standby) external {
        bytes memory change = abi.encodeCall(Vault.addOperator, (standby ? STANDBY : OPERATOR));
        refused(GUARDIAN, change);
        afterDelay(change);
        pledge(true);
    }

    function withdraw(uint256 amount) external {
        if (hostile.wayOf(GUARDIAN) != HostileToken.Way.Good) return;
        amount = amount % (token.balanceOf(address(vault)) / 1000 + 1);
        vm.prank(GUARDIAN);
        vault.withdraw(address(token), amount);
        withdrawn += amount;
    }

    /// Whatever somebody else calls, with whatever arguments.
    function attack(uint8 which, uint160 sender, uint256 a, uint256 b) external {
        if (sender == uint160(GUARDIAN) || vault.isOperator(address(sender))) return;
        bytes4[7] memory selectors = [
            Vault.pay.selector,
            Vault.setCaps.selector,
            Vault.addOperator.selector,
            Vault.removeOperator.selector,
            Vault.setGuardian.selector,
            Vault.propose.selector,
            Vault.withdraw.selector
        ];
        refused(address(sender), abi.encodeWithSelector(selectors[which % 7], a, b, a, b));
    }

    function refused(address sender, bytes memory change) private {
        vm.prank(sender);
        (bool success,) = address(vault).call(change);
        if (success) wrong = true;
    }

    /// The highest cap of a day bounds it, since caps may be lowered later.
    function pledge(bool maybeAnotherDay) private {
        (, uint96 perDay) = vault.caps(address(token));
        bool isNew = maybeAnotherDay && today != block.timestamp / 1 days;
        today = block.timestamp / 1 days;
        if (isNew || perDay > pledged) pledged = perDay;
    }

    function balances() private view returns (uint256 sum) {
        for (uint256 i; i < 20; ++i) {
            sum += token.balanceOf(payee(i));
        }
    }
}

contract InvariantsTest {
    Actors private actors;
    Vault private vault;

    function setUp() public {
        actors = new Actors();
        vault = actors.theVault();
    }

    function targetContracts() external view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(actors);
    }

    function invariant_a_day_moves_no_more_than_its_highest_cap() external view {
        require(actors.movedToday() <= actors.pledged(), "more than a day's cap");
        (uint96 counted, uint64 day) = vault.spending(address(actors.hostile()));
        bool isToday = day == block.timestamp / 1 days;
        require(actors.movedToday() <= (isToday ? counted : 0), "more than it counted");
    }

    function invariant_nothing_happens_that_should_not() external view {
        require(!actors.wrong(), "a call succeeded, or tokens went elsewhere");
        require(vault.guardian() == address(0x6a) && vault.delay() == 2 days, "another rule");
    }
}
