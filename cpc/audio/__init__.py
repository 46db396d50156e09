"""Audio files: decoding, their integrity, and the classical features that a learned representation has to beat."""
