"""Numbers after the search: best model, intervals, importance, comparison, ranking.

Writes no page.
"""
