"""Compares a model across backends: does it compute and train the same, and if not, which layer differs first?"""
