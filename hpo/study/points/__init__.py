"""Points of a search space that are tried before anything that is drawn: whence they come."""
