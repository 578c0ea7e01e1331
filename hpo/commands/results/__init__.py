"""Commands that read a study: status, report, comparison, ranking."""
