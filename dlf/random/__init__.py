"""One seed on every backend: initial weights, masks, and what is not common."""
