"""Samples become verdicts."""
