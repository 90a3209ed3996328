"""A user's model: importing it, its layers by path, data that fit it, and its loss as a function of its variables."""
