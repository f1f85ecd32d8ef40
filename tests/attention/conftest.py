"""The triton backend runs under Triton's interpreter."""

from attention.interpreter import interpret_kernels

interpret_kernels()
