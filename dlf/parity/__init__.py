"""Does a model compute and train the same on every backend, and if not, in which layer does it start?"""
