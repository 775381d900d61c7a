"""The laptop: a local chain, a KMS emulator, a test stablecoin, and the demo."""
