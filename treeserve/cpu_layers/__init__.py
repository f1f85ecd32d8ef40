"""A model's layers on a CPU, by compiled kernels: packed weights, and passes that are one each."""
