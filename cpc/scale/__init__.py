"""Many trainings and evaluations by one command: sweeps, the paper's table with its supervised topline."""
