"""Attention over shared key-value segments, as Triton kernels with a reference twin for each."""
