"""Many runs from one command: planned, scheduled over the machine, and compared."""
