"""What a step is: one file a cell, with its equations and nothing else."""
