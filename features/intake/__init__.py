"""Intake of foreign files: read, normalised and checked before anything is computed from them.

May import `features.chemistry` and what is below it.
"""
