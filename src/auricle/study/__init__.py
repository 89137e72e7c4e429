"""The experiment: which arms are compared, and how."""
