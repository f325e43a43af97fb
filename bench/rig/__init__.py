"""What the benchmarks stand on: a simulator, a recorder, what both use of the machine, and how figures are shown."""
