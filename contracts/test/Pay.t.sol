// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {FiatUSD} from "stablecoin/FiatUSD.sol";
import {Vault} from "../src/Vault.sol";
import {Vm, VaultTest, vm} from "./Cheats.sol";
import {HostileToken} from "./HostileToken.sol";

interface Issuer {
    function setBlocked(address account, bool on) external;
    function setPaused(bool on) external;
}

/// What `pay` does with tokens of all kinds.
contract PayTest is VaultTest {
    HostileToken private hostile;
    uint256 private constant AMOUNT = 3e6;

    function setUp() public {
        hostile = new HostileToken();
        deploy(address(hostile));
    }

    function test_a_stranger_cannot_pay() public {
        bytes memory items = item(payee(0), AMOUNT, 1);
        address[3] memory others = [STRANGER, GUARDIAN, address(hostile)];
        for (uint256 i; i < others.length; ++i) {
            vm.expectRevert(abi.encodeWithSelector(Vault.NotAllowed.selector));
            vm.prank(others[i]);
            vault.pay(address(token), items);
        }
    }

    function testFuzz_bytes_that_are_no_items_are_refused(bytes memory items) public {
        vm.assume(items.length % 48 != 0);
        vm.expectRevert(abi.encodeWithSelector(Vault.NotItems.selector));
        vm.prank(OPERATOR);
        vault.pay(address(token), items);
    }

    function test_no_items_are_no_error() public {
        check(pay(OPERATOR, "").length == 0, "an end");
    }

    /// Every way at every place: each item ends as if it were alone.
    function testFuzz_no_item_affects_another(uint256 seed) public {
        bytes memory items;
        Vault.End[] memory expected = new Vault.End[](30);
        bool[] memory paid = new bool[](30);
        for (uint256 i; i < 30; ++i) {
            HostileToken.Way way = HostileToken.Way(uint256(keccak256(abi.encode(seed, i))) % 17);
            // These two decide about the items after them, as `token paused halfway` does.
            if (way == HostileToken.Way.PausesAfter) way = HostileToken.Way.Reverts;
            if (way == HostileToken.Way.VanishesAfter) way = HostileToken.Way.BurnsAllGas;
            hostile.setWay(payee(i), way);
            expected[i] = endOf(way);
            paid[i] = expected[i] == Vault.End.Paid || way == HostileToken.Way.MovesAndReturnsFalse;
            items = bytes.concat(items, item(payee(i), AMOUNT + i, i));
        }
        hostile.setReentry(abi.encodeCall(Vault.pay, (address(token), items)));
        Vault.End[] memory ends = pay(OPERATOR, items);
        uint256 counted;
        for (uint256 i; i < 30; ++i) {
            check(ends[i] == expected[i], "another end");
            bool fee = hostile.wayOf(payee(i)) == HostileToken.Way.TakesFee;
            uint256 amount = AMOUNT + i - (fee ? (AMOUNT + i) / 100 : 0);
            check(token.balanceOf(payee(i)) == (paid[i] ? amount : 0), "another balance");
            if (ends[i] == Vault.End.Paid || ends[i] == Vault.End.NotTrue) counted += AMOUNT + i;
        }
        check(spent() == counted, "the day counts something else");
    }

    function endOf(HostileToken.Way way) private pure returns (Vault.End) {
        if (way < HostileToken.Way.Blocks) return Vault.End.Paid;
        return way < HostileToken.Way.ReturnsFalse ? Vault.End.Reverted : Vault.End.NotTrue;
    }

    function test_1_bad_payee_of_100() public {
        exactly_the_others_are_paid(1);
    }

    function test_5_bad_payees_of_100() public {
        exactly_the_others_are_paid(5);
    }

    function test_50_bad_payees_of_100() public {
        exactly_the_others_are_paid(50);
    }

    function test_100_bad_payees_of_100() public {
        exactly_the_others_are_paid(100);
    }

    /// Blocked, above the cap, zero, and burning all gas, with a token like USDC.
    function exactly_the_others_are_paid(uint256 bad) private {
        deploy(address(new FiatUSD()));
        bytes memory items;
        for (uint256 i; i < 100; ++i) {
            bool isBad = i * bad / 100 != (i + 1) * bad / 100;
            uint256 amount = !isBad || i % 3 == 0 ? AMOUNT : i % 3 == 1 ? PER_ITEM + 1 : 0;
            if (isBad && i % 3 == 0) Issuer(address(token)).setBlocked(payee(i), true);
            items = bytes.concat(items, item(payee(i), amount, i));
        }
        Vault.End[] memory ends = pay(OPERATOR, items);
        for (uint256 i; i < 100; ++i) {
            bool isBad = i * bad / 100 != (i + 1) * bad / 100;
            Vault.End refused = i % 3 == 0 ? Vault.End.Reverted : Vault.End.NotWithinItemCap;
            check(ends[i] == (isBad ? refused : Vault.End.Paid), "another end");
            check(token.balanceOf(payee(i)) == (isBad ? 0 : AMOUNT), "another balance");
        }
        check(spent() == (100 - bad) * AMOUNT, "the day counts something else");
    }

    function test_a_paused_token_refuses_all() public {
        deploy(address(new FiatUSD()));
        Issuer(address(token)).setPaused(true);
        Vault.End[] memory ends = pay(OPERATOR, several(3));
        for (uint256 i; i < 3; ++i) {
            check(ends[i] == Vault.End.Reverted, "another end");
        }
        Issuer(address(token)).setPaused(false);
        check(pay(OPERATOR, several(3))[2] == Vault.End.Paid, "not paid");
    }

    function test_a_token_that_pauses_halfway_refuses_the_rest() public {
        hostile.setWay(payee(1), HostileToken.Way.PausesAfter);
        Vault.End[] memory ends = pay(OPERATOR, several(4));
        for (uint256 i; i < 4; ++i) {
            check(ends[i] == (i < 2 ? Vault.End.Paid : Vault.End.Reverted), "another end");
        }
    }

    /// A call of an address without code succeeds.
    function test_a_token_that_vanishes_halfway_pays_nothing_more() public {
        hostile.setWay(payee(1), HostileToken.Way.VanishesAfter);
        Vault.End[] memory ends = pay(OPERATOR, several(4));
        for (uint256 i; i < 4; ++i) {
            check(ends[i] == (i < 2 ? Vault.End.Paid : Vault.End.NoCode), "another end");
        }
        check(spent() == 2 * AMOUNT, "the day counts something else");
    }

    function test_a_token_without_caps_is_never_called() public {
        HostileToken other = new HostileToken();
        other.mint(address(vault), 1e15);
        vm.recordLogs();
        vm.prank(OPERATOR);
        vault.pay(address(other), bytes.concat(item(payee(0), 1, 1), item(payee(0), 0, 2)));
        Vm.Log[] memory logs = vm.getRecordedLogs();
        check(logs.length == 2, "another event");
        for (uint256 i; i < 2; ++i) {
            (, Vault.End reason) = abi.decode(logs[i].data, (uint256, Vault.End));
            check(reason == Vault.End.NotWithinItemCap, "another end");
        }
    }

    function test_the_same_payee_twice() public {
        Vault.End[] memory ends =
            pay(OPERATOR, bytes.concat(item(payee(0), 1, 7), item(payee(0), 1, 7)));
        check(ends[1] == Vault.End.Paid && token.balanceOf(payee(0)) == 2, "not paid twice");
    }

    /// More calls enter while the token runs: none succeeds.
    function test_no_rule_changes_while_a_token_runs() public {
        address self = address(hostile);
        bytes[7] memory calls = [
            abi.encodeCall(Vault.pay, (self, "")),
            abi.encodeCall(Vault.setCaps, (self, 0, 0)),
            abi.encodeCall(Vault.addOperator, (self)),
            abi.encodeCall(Vault.removeOperator, (self)),
            abi.encodeCall(Vault.setGuardian, (self)),
            abi.encodeCall(Vault.propose, ("")),
            abi.encodeCall(Vault.withdraw, (self, 1))
        ];
        hostile.setWay(payee(0), HostileToken.Way.Reenters);
        for (uint256 i; i < calls.length; ++i) {
            hostile.setReentry(calls[i]);
            check(pay(OPERATOR, item(payee(0), 1, 1))[0] == Vault.End.Paid, "not paid");
        }
        check(hostile.reentries() == calls.length, "it did not call back");
    }

    /// Whatever gas a caller gives, an item never ends for want of it.
    function testFuzz_gas_never_decides_how_an_item_ends(uint256 gas_, uint8 burns) public {
        uint256 count = 10;
        for (uint256 i; i < count; ++i) {
            bool burn = burns >> (i % 8) & 1 == 1;
            hostile.setWay(
                payee(i), burn ? HostileToken.Way.BurnsAllGas : HostileToken.Way.WantsAllGas
            );
        }
        bytes memory call_ = abi.encodeCall(Vault.pay, (address(token), several(count)));
        gas_ = 30_000 + gas_ % 4_000_000;
        vm.prank(OPERATOR);
        (bool success,) = address(vault).call{gas: gas_}(call_);
        for (uint256 i; i < count; ++i) {
            bool burn = burns >> (i % 8) & 1 == 1;
            bool paid = success && !burn;
            check(token.balanceOf(payee(i)) == (paid ? AMOUNT : 0), "gas decided");
        }
        // What Python calls the bound: with it, no token makes the call revert.
        check(success || gas_ < 70_000 + count * 305_000, "a token made it revert");
    }

    function test_the_cap_of_a_day_is_shared_by_the_operators() public {
        uint256 half = PER_DAY / PER_ITEM / 2;
        bytes memory items;
        for (uint256 i; i < half + 1; ++i) {
            items = bytes.concat(items, item(payee(i), PER_ITEM, i));
        }
        pay(OPERATOR, items);
        Vault.End[] memory ends = pay(STANDBY, items);
        check(ends[half - 2] == Vault.End.Paid, "too early");
        check(ends[half - 1] == Vault.End.AboveDayCap, "too late");
        // A smaller item than what is left is still paid.
        check(spent() == PER_DAY, "not all");
        check(pay(OPERATOR, item(payee(0), 1, 0))[0] == Vault.End.AboveDayCap, "more");
    }

    function test_a_day_ends_at_midnight() public {
        bytes memory all = full();
        pay(OPERATOR, all);
        vm.warp(20_001 days - 1);
        check(pay(OPERATOR, item(payee(0), 1, 0))[0] == Vault.End.AboveDayCap, "early");
        vm.warp(20_001 days);
        Vault.End[] memory ends = pay(OPERATOR, all);
        check(ends[ends.length - 1] == Vault.End.Paid, "late");
        check(spent() == PER_DAY, "the new day counts the old one");
    }

    /// The draft of this contract reverted here: an underflow.
    function testFuzz_a_cap_lowered_below_what_was_spent(uint96 cap) public {
        pay(OPERATOR, full());
        cap = cap % (PER_DAY + 1);
        vm.prank(GUARDIAN);
        vault.setCaps(address(token), PER_ITEM, cap);
        check(pay(OPERATOR, item(payee(0), 1, 0))[0] == Vault.End.AboveDayCap, "paid");
        check(spent() == PER_DAY, "the day forgot");
        vm.warp(block.timestamp + 1 days);
        check((pay(OPERATOR, item(payee(0), 1, 0))[0] == Vault.End.Paid) == (cap > 0), "not paid");
    }

    function test_the_largest_caps_and_amounts() public {
        uint96 most = type(uint96).max;
        afterDelay(abi.encodeCall(Vault.setCaps, (address(token), most, most)));
        token.mint(address(vault), 2 ** 100);
        bytes memory items =
            bytes.concat(item(payee(0), most, 0), item(payee(1), 1, 1), item(payee(2), most, 2));
        Vault.End[] memory ends = pay(OPERATOR, items);
        check(ends[0] == Vault.End.Paid && ends[1] == Vault.End.AboveDayCap, "another end");
        check(spent() == most, "the day counts something else");
    }

    function spent() private view returns (uint256 amount) {
        (amount,) = vault.spending(address(token));
    }

    function several(uint256 count) private pure returns (bytes memory items) {
        for (uint256 i; i < count; ++i) {
            items = bytes.concat(items, item(payee(i), AMOUNT, i));
        }
    }

    /// Items that use up a day.
    function full() private pure returns (bytes memory items) {
        for (uint256 i; i < PER_DAY / PER_ITEM; ++i) {
            items = bytes.concat(items, item(payee(i), PER_ITEM, i));
        }
    }
}
