"""The report of a run: one web page that works offline, and the same numbers for machines."""
