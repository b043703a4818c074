"""What runs next. Arithmetic on integers: no torch, no clock, no device."""
