"""How a recurrent layer is computed."""
