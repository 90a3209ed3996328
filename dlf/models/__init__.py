"""A user's model: finding it, its parts by path, data that it takes, and its loss as a function of its variables."""
