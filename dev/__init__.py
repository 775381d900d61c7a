"""Development tools: local chain, KMS emulator, test stablecoin and demo."""
