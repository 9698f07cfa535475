"""Where the series of a table go on to, and how far off such forecasts are."""
