"""Verdicts become figures and a page."""
