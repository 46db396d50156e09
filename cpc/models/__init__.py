"""Networks: encoder, context, heads, streaming, and the one reader and writer of checkpoints."""
