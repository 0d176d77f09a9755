"""Where the work of a run is done: in this process, in worker processes, or in actors of a Ray cluster."""
