"""Whole epochs in one call: what is fed, what runs it, and the loop with Keras's callbacks around both."""
