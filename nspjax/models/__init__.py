"""Flax decoders and the loading of Hugging Face checkpoints into them."""

from nspjax.models.config import LinearRopeScaling as LinearRopeScaling
from nspjax.models.config import Llama3RopeScaling as Llama3RopeScaling
from nspjax.models.config import ModelConfig as ModelConfig
from nspjax.models.config import RopeFactors as RopeFactors
from nspjax.models.decoder import Decoder as Decoder
from nspjax.models.hub import resolve_checkpoint as resolve_checkpoint
from nspjax.models.load import Offload as Offload
from nspjax.models.load import load_config as load_config
from nspjax.models.load import load_decoder as load_decoder
from nspjax.models.random_weights import random_decoder as random_decoder
