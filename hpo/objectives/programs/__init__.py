"""Programs with parameters on their command line: how they are run, and what they say."""
