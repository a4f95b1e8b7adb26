"""Studies: a claim, the runs that compare its arms, and a verdict."""
