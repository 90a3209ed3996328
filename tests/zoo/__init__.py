"""Everything that Keras has, each thing in a small model of its own, for `dlf parity` to compare."""
