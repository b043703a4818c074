"""Networks as data: a spec, one decoder built from it, and a page a family that maps a config to a spec."""
