"""The command line: parsing only. One file per command; the work is done by the library."""
