"""The treeserve command line."""
