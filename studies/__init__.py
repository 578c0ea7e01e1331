"""Studies: a folder of study files per system."""
