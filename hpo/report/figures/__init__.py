"""Figures of reports: how each is drawn, and kept for print."""
