// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Vault} from "../src/Vault.sol";
import {vm} from "./Cheats.sol";

/// A token that treats each recipient in a way of its own.
contract HostileToken {
    enum Way {
        Good,
        WantsAllGas,
        ReturnsNothing,
        TakesFee,
        ReturnsMegabytes,
        Reenters,
        PausesAfter,
        VanishesAfter,
        // From here on the item is refused.
        Blocks,
        Reverts,
        RevertsWithMegabytes,
        BurnsAllGas,
        BubblesReentry,
        // From here on it is not known whether it moved the amount: here it did not.
        ReturnsFalse,
        ReturnsTwo,
        ReturnsOneByte,
        // And here it did.
        MovesAndReturnsFalse
    }

    mapping(address => uint256) public balanceOf;
    mapping(address => Way) public wayOf;
    bool public paused;
    uint256 public reentries;
    bytes public reentry;

    function mint(address to, uint256 value) external {
        balanceOf[to] += value;
    }

    function setWay(address to, Way way) external {
        wayOf[to] = way;
    }

    function setReentry(bytes calldata call) external {
        reentry = call;
    }

    function transfer(address to, uint256 value) external returns (bool) {
        Way way = wayOf[to];
        require(!paused && way != Way.Blocks && way != Way.Reverts);
        if (way == Way.WantsAllGas) require(gasleft() > 290_000);
        if (way == Way.BurnsAllGas) while (true) {}
        if (way == Way.RevertsWithMegabytes) bomb(false);
        if (way == Way.Reenters || way == Way.BubblesReentry) reenter(msg.sender, way);
        if (way == Way.ReturnsFalse) return false;
        if (way == Way.ReturnsTwo) answer(2, 32);
        if (way == Way.ReturnsOneByte) answer(0, 1); // The true of another item may be left.
        balanceOf[msg.sender] -= value;
        balanceOf[to] += way == Way.TakesFee ? value - value / 100 : value;
        if (way == Way.ReturnsNothing) answer(0, 0);
        if (way == Way.ReturnsMegabytes) bomb(true);
        if (way == Way.PausesAfter) paused = true;
        if (way == Way.VanishesAfter) vm.etch(address(this), "");
        return way != Way.MovesAndReturnsFalse;
    }

    function reenter(address vault, Way way) private {
        (bool success, bytes memory reason) = vault.call(reentry);
        require(!success && bytes4(reason) == Vault.Entered.selector, "it could be entered");
        require(way != Way.BubblesReentry);
        ++reentries;
    }

    /// As much as the gas of an item allows.
    function bomb(bool success) private pure {
        assembly {
            mstore(0, 1)
            if success { return(0, 150000) }
            revert(0, 150000)
        }
    }

    function answer(uint256 word, uint256 size) private pure {
        assembly {
            mstore(0, word)
            return(0, size)
        }
    }
}
