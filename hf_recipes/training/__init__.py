"""Training: the grid of runs and the fine-tuning of each."""
