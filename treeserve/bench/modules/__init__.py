"""Prompt modules: time to the first token, memory, and what the answers lose."""
