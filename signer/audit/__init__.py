"""Evidence: what was asked of which key, by whom, and what came of it."""
