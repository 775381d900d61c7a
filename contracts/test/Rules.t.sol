// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Vault} from "../src/Vault.sol";
import {VaultTest, vm} from "./Cheats.sol";
import {HostileToken} from "./HostileToken.sol";

/// Who may change which rule, and when.
contract RulesTest is VaultTest {
    HostileToken private hostile;
    address private constant NEXT = address(0x6b);

    function setUp() public {
        hostile = new HostileToken();
        deploy(address(hostile));
    }

    function test_a_vault_needs_a_guardian() public {
        vm.expectRevert(abi.encodeWithSelector(Vault.NotAllowed.selector));
        new Vault(address(0), DELAY, new address[](0), new Vault.TokenCaps[](0));
    }

    function test_only_the_guardian_changes_rules() public {
        bytes[6] memory calls = [
            abi.encodeCall(Vault.setCaps, (address(token), 0, 0)),
            abi.encodeCall(Vault.addOperator, (STRANGER)),
            abi.encodeCall(Vault.removeOperator, (STANDBY)),
            abi.encodeCall(Vault.propose, ("")),
            abi.encodeCall(Vault.cancel, ("")),
            abi.encodeCall(Vault.withdraw, (address(token), 1))
        ];
        address[3] memory others = [STRANGER, OPERATOR, address(token)];
        for (uint256 i; i < calls.length; ++i) {
            for (uint256 j; j < others.length; ++j) {
                refuses(others[j], calls[i], Vault.NotAllowed.selector);
            }
        }
    }

    function test_lower_caps_apply_at_once() public {
        vm.prank(GUARDIAN);
        vault.setCaps(address(token), PER_ITEM - 1, PER_DAY);
        check(pay(OPERATOR, item(payee(0), PER_ITEM, 0))[0] == Vault.End.NotWithinItemCap, "paid");
        vm.prank(GUARDIAN);
        vault.setCaps(address(token), 0, 0);
        check(pay(OPERATOR, item(payee(0), 1, 0))[0] == Vault.End.NotWithinItemCap, "paid");
    }

    function testFuzz_a_raised_cap_waits(uint96 perItem, uint96 perDay, uint256 wait) public {
        vm.assume(perItem > PER_ITEM || perDay > PER_DAY);
        waits(abi.encodeCall(Vault.setCaps, (address(token), perItem, perDay)), wait);
        (uint96 item_, uint96 day) = vault.caps(address(token));
        check(item_ == perItem && day == perDay, "other caps");
    }

    function testFuzz_an_operator_waits(uint256 wait) public {
        waits(abi.encodeCall(Vault.addOperator, (STRANGER)), wait);
        check(pay(STRANGER, item(payee(0), 1, 0))[0] == Vault.End.Paid, "not paid");
    }

    /// Refused without a proposal, refused until the delay is over, and made once.
    function waits(bytes memory change, uint256 wait) private {
        notDue(GUARDIAN, change, 0);
        vm.prank(GUARDIAN);
        vault.propose(change);
        vm.warp(START + wait % DELAY);
        notDue(GUARDIAN, change, START + DELAY);
        vm.warp(START + DELAY);
        refuses(STRANGER, change, Vault.NotAllowed.selector);
        vm.prank(GUARDIAN);
        call(change);
        check(vault.dueAt(GUARDIAN, keccak256(change)) == 0, "it can be used again");
    }

    function test_a_proposal_is_for_one_call_with_these_arguments() public {
        bytes memory change = abi.encodeCall(Vault.addOperator, (STRANGER));
        afterDelay(change);
        vm.prank(GUARDIAN);
        vault.removeOperator(STRANGER);
        notDue(GUARDIAN, change, 0);
        notDue(GUARDIAN, abi.encodeCall(Vault.addOperator, (NEXT)), 0);
        vm.prank(GUARDIAN);
        vault.propose(change);
        vm.warp(block.timestamp + DELAY);
        notDue(GUARDIAN, bytes.concat(change, hex"00"), 0);
    }

    function test_a_proposal_can_be_cancelled() public {
        bytes memory change = abi.encodeCall(Vault.addOperator, (STRANGER));
        vm.prank(GUARDIAN);
        vault.propose(change);
        vm.warp(START + DELAY);
        vm.prank(GUARDIAN);
        vault.cancel(change);
        notDue(GUARDIAN, change, 0);
    }

    function test_a_repeated_proposal_waits_again() public {
        bytes memory change = abi.encodeCall(Vault.addOperator, (STRANGER));
        vm.prank(GUARDIAN);
        vault.propose(change);
        vm.warp(START + DELAY - 1);
        vm.prank(GUARDIAN);
        vault.propose(change);
        vm.warp(START + DELAY);
        notDue(GUARDIAN, change, START + 2 * DELAY - 1);
    }

    function test_removal_is_immediate_and_the_standby_goes_on() public {
        vm.prank(GUARDIAN);
        vault.removeOperator(OPERATOR);
        refuses(OPERATOR, payment(), Vault.NotAllowed.selector);
        check(pay(STANDBY, item(payee(0), 1, 0))[0] == Vault.End.Paid, "not paid");
    }

    function test_an_operator_resigns_for_itself_alone() public {
        refuses(
            OPERATOR, abi.encodeCall(Vault.removeOperator, (STANDBY)), Vault.NotAllowed.selector
        );
        refuses(
            STRANGER, abi.encodeCall(Vault.removeOperator, (STRANGER)), Vault.NotAllowed.selector
        );
        vm.prank(OPERATOR);
        vault.removeOperator(OPERATOR);
        refuses(OPERATOR, payment(), Vault.NotAllowed.selector);
        notDue(GUARDIAN, abi.encodeCall(Vault.addOperator, (OPERATOR)), 0);
        check(pay(STANDBY, item(payee(0), 1, 0))[0] == Vault.End.Paid, "not paid");
    }

    function test_the_next_guardian_accepts_after_the_delay() public {
        bytes memory change = abi.encodeCall(Vault.setGuardian, (NEXT));
        notDue(NEXT, change, 0);
        vm.prank(GUARDIAN);
        vault.propose(change);
        notDue(NEXT, change, START + DELAY);
        vm.warp(START + DELAY);
        refuses(GUARDIAN, change, Vault.NotAllowed.selector);
        notDue(STRANGER, abi.encodeCall(Vault.setGuardian, (STRANGER)), 0);
        vm.prank(NEXT);
        vault.setGuardian(NEXT);
        check(vault.guardian() == NEXT, "another guardian");
        refuses(GUARDIAN, abi.encodeCall(Vault.propose, ("")), Vault.NotAllowed.selector);
        notDue(NEXT, change, 0);
    }

    /// Otherwise an old guardian's second successor could replace the new one.
    function test_the_proposals_of_a_guardian_end_with_it() public {
        bytes memory other = abi.encodeCall(Vault.setGuardian, (STRANGER));
        bytes memory operator = abi.encodeCall(Vault.addOperator, (STRANGER));
        vm.prank(GUARDIAN);
        vault.propose(other);
        vm.prank(GUARDIAN);
        vault.propose(operator);
        vm.prank(GUARDIAN);
        vault.propose(abi.encodeCall(Vault.setGuardian, (NEXT)));
        vm.warp(START + DELAY);
        vm.prank(NEXT);
        vault.setGuardian(NEXT);
        notDue(STRANGER, other, 0);
        notDue(NEXT, operator, 0);
    }

    function test_a_guardian_takes_the_tokens_itself() public {
        vm.prank(GUARDIAN);
        vault.withdraw(address(token), 5);
        check(token.balanceOf(GUARDIAN) == 5, "another balance");
        HostileToken.Way[3] memory ways =
            [HostileToken.Way.Reverts, HostileToken.Way.ReturnsFalse, HostileToken.Way.BurnsAllGas];
        for (uint256 i; i < ways.length; ++i) {
            hostile.setWay(GUARDIAN, ways[i]);
            vm.prank(GUARDIAN);
            (bool success,) = address(vault).call{gas: 500_000}(
                abi.encodeCall(Vault.withdraw, (address(token), 5))
            );
            check(!success, "it says that it withdrew");
        }
        hostile.setWay(GUARDIAN, HostileToken.Way.ReturnsNothing);
        vm.prank(GUARDIAN);
        vault.withdraw(address(token), 5);
        vm.expectRevert(abi.encodeWithSelector(Vault.NotWithdrawn.selector, Vault.End.NoCode));
        vm.prank(GUARDIAN);
        vault.withdraw(address(0xdead), 5);
    }

    /// Coin would be lost in a contract that cannot send it.
    function test_it_takes_no_coin() public {
        (bool success,) = address(vault).call{value: 1}("");
        check(!success, "it took coin");
        vm.prank(OPERATOR);
        (success,) = address(vault).call(hex"12345678");
        check(!success, "it has a fallback");
    }

    function payment() private view returns (bytes memory) {
        return abi.encodeCall(Vault.pay, (address(token), item(payee(0), 1, 0)));
    }

    function notDue(address sender, bytes memory change, uint256 due) private {
        refuses(sender, change, abi.encodeWithSelector(Vault.NotDue.selector, due));
    }

    function refuses(address sender, bytes memory change, bytes4 reason) private {
        refuses(sender, change, abi.encodeWithSelector(reason));
    }

    function refuses(address sender, bytes memory change, bytes memory reason) private {
        vm.prank(sender);
        (bool success, bytes memory answer) = address(vault).call(change);
        check(!success && keccak256(answer) == keccak256(reason), "it was not refused so");
    }
}
