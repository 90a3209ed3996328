"""Plots, drawings of models, and what all pages share."""
