"""Modules of a network that call operations on a tracer. They hold names of parameters, never tensors."""
