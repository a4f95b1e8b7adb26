"""What finished runs say: statistics, tables, times to a target, chosen learning rates. No torch."""
