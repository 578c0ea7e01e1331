"""Builds, stores, caches and reads feature tables.

May import everything of this package but `table`.
"""
