"""Whether a study is the one that it was: fingerprint, code, provenance, and trust in code."""
