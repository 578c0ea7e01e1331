"""The study file: its sections, how it is read, and what its errors say.

May import `features.table`.
"""
