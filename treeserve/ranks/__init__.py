"""One engine whose model is spread over several processes, the ranks."""
