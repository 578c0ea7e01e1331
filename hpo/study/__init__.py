"""A study in its storage: begun, found, compared, listed, exported. Computes no score."""
