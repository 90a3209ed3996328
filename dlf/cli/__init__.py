"""The command ``dlf``: a file for each of its commands, and what they show in a terminal."""
