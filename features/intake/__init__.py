"""The intake of foreign files: bytes of whatever origin become text, cells, numbers and formulas.

Everything that others wrote comes in here, within bounds of size, and is read, refused with a
reason, or read with a remark; nothing is changed without a word. May import `features.chemistry`
and what is below it.
"""
