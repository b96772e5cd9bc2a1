"""One training loop and what it needs: configuration, optimiser, checkpoints, evaluation."""
