"""One seed for every backend: the same initial weights and masks, and a report of what differs."""
