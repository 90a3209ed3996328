"""The model in float64, and what rounding explains."""
