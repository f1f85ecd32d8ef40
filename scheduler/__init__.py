"""Decides, without a tensor, which tokens each forward pass computes and what they attend to."""
