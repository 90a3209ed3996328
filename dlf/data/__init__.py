"""From files and single examples to shuffled batches."""
