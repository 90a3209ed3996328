"""Tools for all of dlf's packages: errors, files that are written whole, interrupts, worker processes."""
