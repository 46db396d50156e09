"""Features of audio files on disk: many short files in padded batches, long ones in constant memory, restartable."""
