"""The page of `dlf parity --html`."""
