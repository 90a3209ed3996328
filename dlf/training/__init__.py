"""Training, evaluation and prediction as in Keras, run by the fused engine where it can."""
