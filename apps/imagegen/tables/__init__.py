"""The tables of the benchmark: which rows they have, how a cell is measured, kept and shown."""
