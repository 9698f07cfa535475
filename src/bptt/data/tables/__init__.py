"""Tables of one series or several: files and frames in, numbers in standard units out."""
