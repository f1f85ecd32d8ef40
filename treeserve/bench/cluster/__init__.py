"""Measures a cluster: routers against each other, on real replicas and on paper."""
