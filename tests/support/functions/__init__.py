"""Objectives written for `Study.optimize`, of every kind."""
