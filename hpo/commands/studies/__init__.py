"""Commands that run a study on this machine."""
