"""Refunds over three nodes of which one lies (placeholder)."""
