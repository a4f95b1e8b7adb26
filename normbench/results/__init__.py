"""What finished runs say: statistics, tables, times to a target. Imports no torch."""
