"""Files: volumes, measurements, and how both are read without trust and written whole."""
