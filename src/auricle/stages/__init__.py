
"""The stages: each has one frozen configuration and ``run(config, out) -> out``, and exchanges folders with the others."""
