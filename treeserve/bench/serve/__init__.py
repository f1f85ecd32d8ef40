"""What callers of the service get under load, over real sockets, and what the service costs."""
