"""Where authors of backends find the protocol: `dlf.backend.protocol`."""

from dlf.backend.protocol import *  # noqa: F403 - all its public names.
