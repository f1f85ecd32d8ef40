"""Generated protobuf code of the treeserve.v1 package."""
