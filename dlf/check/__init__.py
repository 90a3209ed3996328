"""`dlf check`: reads source code, runs none of it, and lists what ties it to one framework."""
