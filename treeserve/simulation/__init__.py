"""Traces of requests, and a simulator that runs them through the scheduler on a paper device."""
