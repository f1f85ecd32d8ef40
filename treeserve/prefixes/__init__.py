"""Prefixes that are worth keeping: warmed, retained, and saved to disk with their KV."""
