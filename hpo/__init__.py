"""The engine: study files, shared storage, the ledger, workers, reports and the command line."""
