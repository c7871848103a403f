"""The NumPy reference: models with hand-derived gradients, optimizers, a training loop, data sets."""
