"""The fused engine, which runs many steps in one call: data feeds, the choice of engine, and the loop over epochs."""
