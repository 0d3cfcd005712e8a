"""Beam search: `LLM.beam_search`, in vLLM's shape, with the choices of transformers."""
