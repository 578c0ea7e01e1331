"""What each command of the command line is called with and does.

Imports of everything heavy wait until a command needs them.
"""
