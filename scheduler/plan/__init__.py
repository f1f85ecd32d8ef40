"""The plan: from the samples' paths to work items."""
