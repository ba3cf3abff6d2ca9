"""One HTML file and a terminal table from a run's records, and from nothing else."""
