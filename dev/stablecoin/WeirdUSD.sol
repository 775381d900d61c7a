// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

/// @title A token that misbehaves as its issuer says; never for production
/// @notice Each behaviour is one that a real token has, or had. It can be changed at any
///         time, so that a transfer that was estimated well goes wrong when it is mined.
contract WeirdUSD {
    enum Behaviour {
        Good, // As the standard says.
        ReturnsNothing, // Moves the coins and returns no bool, like USDT.
        ReturnsFalse, // Moves nothing, says so by returning false.
        RevertsWithReason, // The form of require().
        RevertsWithError, // The form of a custom error.
        RevertsSilently, // No return data, as contracts of old.
        Panics, // As a false assert().
        ChargesRecipient, // A fee: the recipient gets less.
        ChargesSender, // A fee on top: the recipient gets all, the sender pays more.
        RepeatsEvent, // Emits the same Transfer twice.
        OverstatesEvent, // Emits a Transfer of one unit more, besides the true one.
        SaysNothing // Moves the coins without a Transfer event.
    }

    string public constant name = "Weird USD";
    string public constant symbol = "WUSD";
    uint8 public constant decimals = 6;

    address public immutable issuer = msg.sender;
    Behaviour public behaviour;
    mapping(address => uint256) public balanceOf;

    event Transfer(address indexed from, address indexed to, uint256 value);

    error NotToday(address to, uint256 value);

    modifier onlyIssuer() {
        require(msg.sender == issuer, "WeirdUSD: only the issuer");
        _;
    }

    function mint(address to, uint256 value) external onlyIssuer {
        balanceOf[to] += value;
        emit Transfer(address(0), to, value);
    }

    function setBehaviour(Behaviour next) external onlyIssuer {
        behaviour = next;
    }

    function transfer(address to, uint256 value) external returns (bool) {
        if (behaviour == Behaviour.ReturnsFalse) return false;
        refuse(to, value);
        pay(to, value);
        if (behaviour == Behaviour.ReturnsNothing) {
            assembly {
                return(0, 0)
            }
        }
        return true;
    }

    function refuse(address to, uint256 value) private view {
        require(behaviour != Behaviour.RevertsWithReason, "WeirdUSD: not today");
        if (behaviour == Behaviour.RevertsWithError) revert NotToday(to, value);
        if (behaviour == Behaviour.RevertsSilently) revert();
        assert(behaviour != Behaviour.Panics);
    }

    function pay(address to, uint256 value) private {
        uint256 fee = value / 100;
        if (behaviour == Behaviour.ChargesRecipient) {
            move(to, value - fee);
            move(issuer, fee);
            return;
        }
        if (behaviour == Behaviour.ChargesSender) move(issuer, fee);
        move(to, value);
        if (behaviour == Behaviour.RepeatsEvent) emit Transfer(msg.sender, to, value);
        if (behaviour == Behaviour.OverstatesEvent) emit Transfer(msg.sender, to, value + 1);
    }

    function move(address to, uint256 value) private {
        balanceOf[msg.sender] -= value;
        balanceOf[to] += value;
        if (behaviour != Behaviour.SaysNothing) emit Transfer(msg.sender, to, value);
    }
}
