"""The protocol of a backend, the registry of backends, and all access to Keras's private API."""
