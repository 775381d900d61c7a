"""Pays a refund once: accept, reserve, sign, record, broadcast, confirm."""
