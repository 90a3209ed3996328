"""Data sets: loading them from files or by name, and turning single examples into shuffled batches."""
