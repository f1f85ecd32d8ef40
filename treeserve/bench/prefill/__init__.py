"""An unshared prompt's prefill, beside transformers' own forward pass."""
