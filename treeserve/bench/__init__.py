"""Measurements that need the engine's parts: one layer's attention, and decoding as a whole."""
