"""Every Prometheus metric that treeserve exports, in a registry of its own per server."""

from treeserve.metrics.observer import Metrics
from treeserve.metrics.requests import RequestTimings

__all__ = ["Metrics", "RequestTimings"]
