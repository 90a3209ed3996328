"""The page of `dlf gradients --html`."""
