"""The float64 reference of a model, and how large an error rounding explains."""
