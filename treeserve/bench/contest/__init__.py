"""What a contest's tree saves: examples, problems and samples under one pool."""
