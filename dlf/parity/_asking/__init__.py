"""The process that asks: workers, requests, and the parts of a comparison in their order."""
