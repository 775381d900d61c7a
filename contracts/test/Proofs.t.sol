// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Vault} from "../src/Vault.sol";
import {vm} from "./Cheats.sol";

/// The cheat codes of Halmos.
interface Svm {
    function createUint(uint256 bits, string calldata name) external returns (uint256);
    function createBytes32(string calldata name) external returns (bytes32);
    function createCalldata(string calldata contract_) external returns (bytes memory);
    function enableSymbolicStorage(address target) external;
}

Svm constant svm = Svm(address(uint160(uint256(keccak256("svm cheat code")))));

/// A token that answers each payment in any way, and counts what may have moved.
contract AnyToken {
    uint256 private constant KNOWN = 1 << 8;
    mapping(bytes32 payment => uint256) private ways;
    uint256 public moved;

    function setWay(bytes32 payment, uint256 way) external {
        ways[payment] = KNOWN | way;
    }

    function transfer(address to, uint256 amount) external {
        uint256 way = ways[bytes32(bytes20(to)) | bytes32(amount)];
        require(way != KNOWN);
        unchecked {
            // A payment that is no item moves more than any cap.
            moved += way == 0 ? 1 << 255 : amount;
        }
        if (way == KNOWN | 1) return;
        assembly {
            // True for a way of 2, and something else for all others.
            mstore(0, sub(way, 257))
            return(0, 32)
        }
    }
}

/// Proved by Halmos from each state that the storage of a vault can have, reachable or
/// not: so it holds after each sequence of calls.
contract Proofs {
    Vault private vault;
    AnyToken private token;

    function setUp() public {
        vm.warp(20_000 days); // One time is enough: the day that the vault stored is any.
        vault = new Vault(address(1), 0, new address[](0), new Vault.TokenCaps[](0));
        token = new AnyToken();
        svm.enableSymbolicStorage(address(vault));
    }

    function state() private view returns (uint256 perItem, uint256 spent, uint256 left) {
        uint256 perDay;
        (perItem, perDay) = vault.caps(address(token));
        (uint96 amount, uint64 day) = vault.spending(address(token));
        spent = day == block.timestamp / 1 days ? amount : 0;
        left = perDay > spent ? perDay - spent : 0;
    }

    /// A call moves what is left of the day at most, and nothing but its items.  Only a lack
    /// of gas makes a call of an operator revert.  No other caller pays.
    function check_pay(address caller, bytes32 first, bytes16 mark) public {
        token.setWay(first, svm.createUint(8, "way"));
        (uint256 perItem, uint256 spent, uint256 left) = state();
        bool isOperator = vault.isOperator(caller);
        bytes memory items = abi.encodePacked(first, mark);
        vm.prank(caller);
        (bool success, bytes memory reason) =
            address(vault).call(abi.encodeCall(Vault.pay, (address(token), items)));
        uint256 moved = token.moved();
        assert(success ? isOperator : moved == 0);
        assert(success || !isOperator || bytes4(reason) == Vault.TooLittleGas.selector);
        assert(moved <= left && moved <= perItem);
        (, uint256 counted,) = state();
        assert(!success || counted == spent + moved);
    }

    /// The second item moves what it would move alone, with what the first left of the day.
    function check_no_item_affects_another(bytes32 first, bytes32 second) public {
        (uint256 way, uint256 way_) = (svm.createUint(8, "way"), svm.createUint(8, "way"));
        token.setWay(first, way);
        token.setWay(second, way_);
        vm.assume(first != second || way == way_);
        address caller = address(2);
        vm.assume(vault.isOperator(caller));
        // How much is left of a day is proved above; here it is any amount of this day.
        (uint256 perItem, uint256 perDay) = vault.caps(address(token));
        (uint256 spent, uint256 day) = vault.spending(address(token));
        vm.assume(spent <= perDay && day == block.timestamp / 1 days);
        uint256 left = perDay - spent;
        bytes memory items = abi.encodePacked(first, bytes16("1"), second, bytes16("2"));
        vm.prank(caller);
        vault.pay(address(token), items);
        uint256 one = movedBy(first, way, perItem, left);
        uint256 two = movedBy(second, way_, perItem, left - one);
        assert(token.moved() == one + two);
    }

    function movedBy(bytes32 payment, uint256 way, uint256 perItem, uint256 left)
        private
        pure
        returns (uint256 moved)
    {
        assembly {
            // Without branches, which take time.
            let amount := and(payment, 0xffffffffffffffffffffffff)
            let fits := iszero(or(gt(amount, perItem), gt(amount, left)))
            moved := mul(amount, and(fits, iszero(iszero(way))))
        }
    }

    /// Only the guardian changes a rule: no call of another sender does.
    function check_others_change_no_rule(address caller, address any) public {
        bytes memory call = svm.createCalldata("Vault");
        address guardian = vault.guardian();
        vm.assume(caller != guardian);
        (uint96 perItem, uint96 perDay) = vault.caps(any);
        bool isOperator = vault.isOperator(any);
        uint256 delay = vault.delay();
        uint256 due = vault.dueAt(guardian, keccak256(call));
        bool isPaying = bytes4(call) == Vault.pay.selector && vault.isOperator(caller);
        vm.prank(caller);
        (bool success,) = address(vault).call(call);
        (uint96 perItem_, uint96 perDay_) = vault.caps(any);
        assert(perItem == perItem_ && perDay == perDay_);
        assert(vault.delay() == delay);
        // It may remove itself, and become the guardian if that was proposed and is due.
        if (vault.isOperator(any) != isOperator) assert(isOperator && any == caller && success);
        if (vault.guardian() != guardian) {
            assert(bytes4(call) == Vault.setGuardian.selector && vault.guardian() == caller);
            assert(due != 0 && due <= block.timestamp);
        }
        assert(token.moved() == 0 || isPaying);
    }

    /// The guardian raises a cap, or adds an operator, only by a proposal that is due.
    function check_the_guardian_waits(address any) public {
        bytes memory call = svm.createCalldata("Vault");
        address guardian = vault.guardian();
        (uint96 perItem, uint96 perDay) = vault.caps(any);
        bool isOperator = vault.isOperator(any);
        uint256 delay = vault.delay();
        uint256 due = vault.dueAt(guardian, keccak256(call));
        vm.prank(guardian);
        (bool success,) = address(vault).call(call);
        (uint96 perItem_, uint96 perDay_) = vault.caps(any);
        bool isMore = perItem_ > perItem || perDay_ > perDay || vault.isOperator(any) && !isOperator
            || vault.guardian() != guardian;
        assert(!isMore || (success && due != 0 && due <= block.timestamp));
        assert(!isMore || vault.dueAt(guardian, keccak256(call)) == 0);
        assert(vault.delay() == delay);
    }
}
