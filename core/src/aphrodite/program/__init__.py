"""The step as data: a flat list of calls, recorded once, planned, bound and replayed."""
