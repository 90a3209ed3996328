"""A worker's part, for one backend: it builds the model, records each call of a layer, replays it, and trains."""
