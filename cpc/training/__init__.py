"""Training: the recipe, the trainer with its loop, and runs."""
