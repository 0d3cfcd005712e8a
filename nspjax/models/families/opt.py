"""OPT (arXiv 2205.01068): learned positions, LayerNorm, biases, an MLP without a gate.

OPT-350M projects a narrower token embedding and normalises after each block; Galactica has neither
biases nor weights in its norms.
"""

from nspjax.models.config import ModelConfig
from nspjax.models.families.family import Family
from nspjax.models.settings import Settings
from nspjax.models.weight_table import Table, Target

_LAYER = "model.decoder.layers.{layer}."
TABLE: Table = {
    "model.decoder.embed_tokens.weight": Target("embedding"),
    "model.decoder.embed_positions.weight": Target("positions"),
    "model.decoder.project_in.weight": Target("project_in.w", True),
    "model.decoder.project_out.weight": Target("project_out.w", True),
    "model.decoder.final_layer_norm.weight": Target("final_norm.scale"),
    "model.decoder.final_layer_norm.bias": Target("final_norm.bias"),
    "lm_head.weight": Target("head"),
    f"{_LAYER}self_attn_layer_norm.weight": Target("layers.{layer}.attention_norm.scale"),
    f"{_LAYER}self_attn_layer_norm.bias": Target("layers.{layer}.attention_norm.bias"),
    f"{_LAYER}self_attn.q_proj.weight": Target("layers.{layer}.attention.q.w", True),
    f"{_LAYER}self_attn.k_proj.weight": Target("layers.{layer}.attention.k.w", True),
    f"{_LAYER}self_attn.v_proj.weight": Target("layers.{layer}.attention.v.w", True),
    f"{_LAYER}self_attn.out_proj.weight": Target("layers.{layer}.attention.out.w", True),
    f"{_LAYER}self_attn.q_proj.bias": Target("layers.{layer}.attention.q.b"),
    f"{_LAYER}self_attn.k_proj.bias": Target("layers.{layer}.attention.k.b"),
    f"{_LAYER}self_attn.v_proj.bias": Target("layers.{layer}.attention.v.b"),
    f"{_LAYER}self_attn.out_proj.bias": Target("layers.{layer}.attention.out.b"),
    f"{_LAYER}final_layer_norm.weight": Target("layers.{layer}.mlp_norm.scale"),
    f"{_LAYER}final_layer_norm.bias": Target("layers.{layer}.mlp_norm.bias"),
    f"{_LAYER}fc1.weight": Target("layers.{layer}.mlp.up.w", True),
    f"{_LAYER}fc1.bias": Target("layers.{layer}.mlp.up.b"),
    f"{_LAYER}fc2.weight": Target("layers.{layer}.mlp.down.w", True),
    f"{_LAYER}fc2.bias": Target("layers.{layer}.mlp.down.b"),
}


def read(settings: Settings) -> ModelConfig:
    hidden_size, n_heads = settings.integer("hidden_size"), settings.integer("num_attention_heads")
    if hidden_size % n_heads:
        raise settings.unsupported("num_attention_heads", f"divisors of hidden_size {hidden_size}")
    settings.only("_remove_final_layer_norm", False)
    bias = settings.flag("enable_bias", True)
    return ModelConfig(
        vocab_size=settings.integer("vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=settings.integer("ffn_dim"),
        n_layers=settings.layers(),
        n_heads=n_heads,
        n_kv_heads=n_heads,
        head_dim=hidden_size // n_heads,
        max_position_tokens=settings.integer("max_position_embeddings", 2048),
        embedding_size=settings.integer("word_embed_proj_dim", hidden_size),
        positions="learned",
        position_offset=2,
        norm="layer",
        norm_eps=1e-5,
        norm_weights=settings.flag("layer_norm_elementwise_affine", True),
        norm_after=not settings.flag("do_layer_norm_before", True),
        activation=settings.activation("activation_function", "relu"),
        gated_mlp=False,
        qkv_bias=bias,
        attention_out_bias=bias,
        mlp_bias=bias,
        tied_embeddings=settings.flag("tie_word_embeddings", True),
        bos_token_id=2,
        eos_token_ids=(2,),
        family="opt",
    )


FAMILY = Family("OPTForCausalLM", "opt", read, TABLE)
