"""Verification of an attention op against the float64 meaning of its spec."""
