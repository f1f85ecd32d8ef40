"""The gRPC generation service and the HTTP door for probes and metrics."""
