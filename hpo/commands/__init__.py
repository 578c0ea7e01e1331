"""The commands, a module of its name for each: `configure` its parser, and `run` it.

A module is imported when its command is asked for (`hpo.cli`), and may import everything below.
"""
