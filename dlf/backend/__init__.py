"""What a backend is, the ones that are installed, and what is private to Keras."""
