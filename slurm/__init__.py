"""Keeps copies of a callable alive on a cluster; knows nothing of studies or features."""
