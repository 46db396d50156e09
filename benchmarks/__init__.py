"""Scripts that regenerate every figure of speed or memory that the documentation claims."""
