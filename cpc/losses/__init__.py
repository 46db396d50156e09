"""The contrastive family: score × negatives × objective, and the losses made of them. It knows nothing of files."""
