"""Keras's `fit`, `evaluate` and `predict`, by the fused engine where it can run them."""
