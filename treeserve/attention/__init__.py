"""Attention backends, one contract: reference, torch (CPU) and triton (CUDA)."""

from treeserve.attention.backend import AttentionBackend, AttentionBackendName, make_backend

__all__ = ["AttentionBackend", "AttentionBackendName", "make_backend"]
