"""What a worker does for one backend: it builds the model, records each call, replays it and trains."""
