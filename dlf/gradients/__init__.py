"""The same problem by each framework's own way of taking gradients, and each held against the truth."""
