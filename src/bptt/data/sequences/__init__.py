"""Collections of sequences, with or without labels."""
