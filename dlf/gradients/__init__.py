"""Solves one problem with each framework's own way of taking gradients, and compares each with the truth."""
