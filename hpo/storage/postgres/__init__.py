"""A PostgreSQL server of one's own; imports nothing of the storage but its URLs."""
