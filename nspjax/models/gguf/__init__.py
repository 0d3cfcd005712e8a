"""GGUF files: a checkpoint in one file, as llama.cpp has them."""

from nspjax.models.gguf.config import read_config as read_config
from nspjax.models.gguf.header import GgufHeader as GgufHeader
from nspjax.models.gguf.header import is_gguf as is_gguf
from nspjax.models.gguf.header import read_header as read_header
from nspjax.models.gguf.weights import stored_weights as stored_weights
