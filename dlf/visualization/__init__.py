"""Plots, drawings of models, and the parts that all HTML pages share."""
