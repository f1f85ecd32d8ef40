"""Samples of contest problems: prompts, draws as trees, and a file that goes on."""
