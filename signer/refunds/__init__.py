"""Pays a refund once: accept, assign a nonce, sign, record, broadcast, confirm."""
