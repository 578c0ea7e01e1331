"""Candidates as a model ranks them: predictions, intervals, domain, and all lines of a file."""
