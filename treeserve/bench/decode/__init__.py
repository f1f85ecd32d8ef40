"""Decoding end to end with the real engine: sharing on, off, and attention that costs nothing."""
