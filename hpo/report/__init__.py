"""Pages, figures and CSV files for people, of what `analysis` computed."""
