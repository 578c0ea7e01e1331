"""The shared database: tables, ledger, backends, copies, a server of one's own.

May import `system`.
"""
