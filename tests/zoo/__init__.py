"""Every public layer, loss, metric and so on of Keras, each in a small model of its own for `dlf parity` to compare."""
