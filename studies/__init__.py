"""What is optimised: a folder of study files per system."""
