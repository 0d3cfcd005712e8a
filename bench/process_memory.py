"""How much memory this process has, and had at most."""

import resource

import psutil


def rss_bytes() -> int:
    return psutil.Process().memory_info().rss


def peak_rss_bytes() -> int:
    """The most since the process began; its children are not in it."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
