"""The networks that ``hotwallet init`` knows, with the issuers' lists of addresses."""

from dataclasses import dataclass


CIRCLE = "https://developers.circle.com/stablecoins/usdc-contract-addresses"
TETHER = "https://tether.to/en/supported-protocols/"
USDT0 = "https://docs.usdt0.to/technical-documentation/deployments"

PLACEHOLDER_URL = "https://rpc.example.com/your-key"


@dataclass(frozen=True, slots=True)
class TokenPreset:
    """A stablecoin with six decimals; *source* is its issuer's list of addresses."""

    symbol: str
    address: str
    source: str


@dataclass(frozen=True, slots=True)
class NetworkPreset:
    """
    A network, and why it needs so many confirmations.

    Fee caps are in gwei.  The console links to *explorer*.
    """

    name: str
    chain_id: int
    confirmations: int
    reason: str
    max_fee: int
    max_priority_fee: int
    explorer: str
    tokens: tuple[TokenPreset, ...]


_FINALITY = "about two epochs (13 minutes), when Ethereum finalises a block"
_SEQUENCER = "the sequencer orders blocks; deep reorganisations need its failure"
_POLYGON = "milestones finalise blocks within seconds; this leaves a margin"
_TESTNET = "testnets are reorganised more often, and worth nothing"

PRESETS = {
    each.name: each
    for each in (
        NetworkPreset(
            "ethereum",
            1,
            64,
            _FINALITY,
            200,
            5,
            "https://etherscan.io",
            (
                TokenPreset(
                    "USDC", "0xA0b86991c6218b36c1d19D4a2e9Eb0cE3606eB48", CIRCLE
                ),
                TokenPreset(
                    "USDT", "0xdAC17F958D2ee523a2206206994597C13D831ec7", TETHER
                ),
            ),
        ),
        NetworkPreset(
            "base",
            8453,
            60,
            _SEQUENCER,
            5,
            1,
            "https://basescan.org",
            (
                TokenPreset(
                    "USDC", "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913", CIRCLE
                ),
            ),
        ),
        NetworkPreset(
            "polygon",
            137,
            64,
            _POLYGON,
            1000,
            100,
            "https://polygonscan.com",
            (
                TokenPreset(
                    "USDC", "0x3c499c542cEF5E3811e1192ce70d8cC03d5c3359", CIRCLE
                ),
                TokenPreset(
                    "USDT", "0xc2132D05D31c914a87C6611C10748AEb04B58e8F", USDT0
                ),
            ),
        ),
        NetworkPreset(
            "arbitrum",
            42161,
            240,
            _SEQUENCER,
            5,
            1,
            "https://arbiscan.io",
            (
                TokenPreset(
                    "USDC", "0xaf88d065e77c8cC2239327C5EDb3A432268e5831", CIRCLE
                ),
                TokenPreset(
                    "USDT", "0xFd086bC7CD5C481DCC9C85ebE478A1C0b69FCbb9", USDT0
                ),
            ),
        ),
        NetworkPreset(
            "ethereum-sepolia",
            11155111,
            12,
            _TESTNET,
            500,
            50,
            "https://sepolia.etherscan.io",
            (
                TokenPreset(
                    "USDC", "0x1c7D4B196Cb0C7B01d743Fbc6116a902379C7238", CIRCLE
                ),
            ),
        ),
        NetworkPreset(
            "base-sepolia",
            84532,
            12,
            _TESTNET,
            5,
            1,
            "https://sepolia.basescan.org",
            (
                TokenPreset(
                    "USDC", "0x036CbD53842c5426634e7929541eC2318f3dCF7e", CIRCLE
                ),
            ),
        ),
        NetworkPreset(
            "polygon-amoy",
            80002,
            12,
            _TESTNET,
            1000,
            100,
            "https://amoy.polygonscan.com",
            (
                TokenPreset(
                    "USDC", "0x41E94Eb019C0762f9Bfcf9Fb1E58725BfB0e7582", CIRCLE
                ),
            ),
        ),
        NetworkPreset(
            "arbitrum-sepolia",
            421614,
            12,
            _TESTNET,
            5,
            1,
            "https://sepolia.arbiscan.io",
            (
                TokenPreset(
                    "USDC", "0x75faf114eafb1BDbe2F0316DF893fd58CE46AA4d", CIRCLE
                ),
            ),
        ),
    )
}
