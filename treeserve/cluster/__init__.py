"""Several replicas of one engine: who holds which prefix, and where the next request goes."""
