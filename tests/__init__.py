"""The test suite: flat files, real data, real processes."""
