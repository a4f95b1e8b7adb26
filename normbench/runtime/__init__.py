"""What a run stands on: the machine, processes, messages between them, storage, random numbers."""
