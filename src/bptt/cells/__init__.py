"""What a step is: one file a cell, with its equations and nothing else."""

from bptt.cells.gru import GRUCell
from bptt.cells.lstm import LSTMCell
from bptt.cells.min_gru import MinGRU

__all__ = ["GRUCell", "LSTMCell", "MinGRU"]
