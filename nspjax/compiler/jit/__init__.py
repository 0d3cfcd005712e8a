"""A function over KV caches, traced, compiled and called as `jax.jit` does it."""
