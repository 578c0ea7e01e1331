"""Checks of an installation, its storage and its cluster."""
