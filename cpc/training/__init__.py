"""Training: the recipe, the job, its loop, checkpoints and runs."""
