"""Targets that are known as intervals alone: what they are, and what takes them."""
