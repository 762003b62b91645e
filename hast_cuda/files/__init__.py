"""Bytes to disk and back: whole files, JSON, tensors, pickles that are looked at first."""
