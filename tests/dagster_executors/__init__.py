"""Jobs that show what an executor does, for every executor alike."""
