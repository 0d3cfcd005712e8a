"""Cached attention as people write it: found in a module, proved, and given its mark."""
