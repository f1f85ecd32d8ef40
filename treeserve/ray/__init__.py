"""treeserve on Ray Serve: one ingress that speaks treeserve.v1, many replicas, one router."""
