"""What every package uses: errors, whole files, interrupts, worker processes."""
