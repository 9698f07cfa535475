"""The tasks on which recurrent networks are tried, drawn on the fly."""
