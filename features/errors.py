"""Everything this package raises on purpose.

The tree::

    FeaturesError
    ├── DatasetError   a source file is missing, unreadable, or holds no usable row
    ├── FamilyError    a feature family cannot be computed here
    └── TableError     a table on disk is absent, half, damaged, or of another format

A message names the thing, the rule, the value and what to do next.
"""


class FeaturesError(Exception):
    """Base of every error that this package raises on purpose."""


class DatasetError(FeaturesError):
    """A source file is missing, unreadable, lacks a column, or holds no usable row."""


class FamilyError(FeaturesError):
    """A feature family cannot be computed: an input or an installed data file is missing."""


class TableError(FeaturesError):
    """A table on disk is absent, half, damaged, of another format, or cannot be written."""
