"""One layer's attention over a tree: values, the floor, our plans and other people's kernels."""
