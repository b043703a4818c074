"""Kobold's API, as KoboldCpp's clients use it."""
