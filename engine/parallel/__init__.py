"""One volume over one process or several."""
