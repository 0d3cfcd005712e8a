"""Modules of few operations, whose costs are counted by hand."""

import itertools

from nspjax.compiler import mlir
from nspjax.compiler.machine.costs import Cost
from nspjax.compiler.machine.rates import Rates

HANDLES = "%k{0}: tensor<4xi32>, %v{0}: tensor<4xi32>"
CACHE = 'cache_dtype = "bf16", cache_shape = array<i64: 4, 100, 2, 8>'
QUERY = (
    "tensor<4xi32>, tensor<4xi32>, tensor<4x1x4x8xf32>, tensor<4xi32>, tensor<4xi32>, tensor<4xi32>"
)
ANSWER = "tensor<4x1x4x8xf32>, tensor<4x1x4xf32>, tensor<4xi32>, tensor<4xi32>"

# one layer's numbers: B 4, Hq 4, Hkv 2, D 8, C 100
KV_TOKEN = 2 * 2 * 8 * 2
Q_BYTES = 4 * 4 * 8 * 4
OUT_BYTES = Q_BYTES + 4 * 4 * 4
NEW_BYTES = 4 * KV_TOKEN


def attributes(read_ahead="false", window=0, cache=CACHE, more=""):
    own = f"read_ahead = {read_ahead}, scale = 1.0, softcap = 0.0, window = {window} : i64"
    return "{" + ", ".join(filter(None, [cache, own, more])) + "}"


def main(body, *, n_layers=1):
    handles = ", ".join(HANDLES.format(layer) for layer in range(n_layers))
    return mlir.parse(
        f"""
        func.func public @main(%q: tensor<4x1x4x8xf32>, %new: tensor<4x1x2x8xbf16>,
            %rows: tensor<4xi32>, %w: tensor<8x8xf32>, {handles}) {{
          {body}
          return
        }}"""
    )


def append(layer, hold="false", name="append", k=None):
    k = k or (f"%k{layer}", f"%v{layer}")
    return f"""
      %{name}{layer}:2 = "nsp.append"({k[0]}, {k[1]}, %new, %new, %rows, %rows, %rows)
        {{{CACHE}, hold = {hold}}} : (tensor<4xi32>, tensor<4xi32>, tensor<4x1x2x8xbf16>,
        tensor<4x1x2x8xbf16>, tensor<4xi32>, tensor<4xi32>, tensor<4xi32>)
        -> (tensor<4xi32>, tensor<4xi32>)"""


def attend(layer, op="attend", handles=None, **options):
    handles = handles or f"%k{layer}, %v{layer}"
    return f"""
      %out{layer}:4 = "nsp.{op}"({handles}, %q, %rows, %rows, %rows)
        {attributes(**options)} : ({QUERY}) -> ({ANSWER})"""


def start(layer, handles=None, **options):
    handles = handles or f"%k{layer}, %v{layer}"
    return f"""
      %start{layer}:3 = "nsp.attend_start"({handles}, %q, %rows, %rows, %rows)
        {attributes(**options)} : ({QUERY}) -> (tensor<2xi32>, tensor<4xi32>, tensor<4xi32>)"""


def wait(layer):
    return f"""
      %out{layer}:2 = "nsp.attend_wait"(%start{layer}#0) : (tensor<2xi32>)
        -> (tensor<4x1x4x8xf32>, tensor<4x1x4xf32>)"""


def prefetch(layer, most_bytes=0):
    return f"""
      %done{layer} = "nsp.prefetch"(%k{layer}, %v{layer}, %rows, %rows)
        {{{CACHE}, most_bytes = {most_bytes} : i64}} : (tensor<4xi32>, tensor<4xi32>, tensor<4xi32>,
        tensor<4xi32>) -> tensor<1xi32>"""


def writeback(layer, exclusive="false"):
    return f"""
      %written{layer} = "nsp.writeback"(%append{layer}#0, %append{layer}#1)
        {{{CACHE}, exclusive = {exclusive}, interval_tokens = 16 : i64}} : (tensor<4xi32>,
        tensor<4xi32>) -> tensor<1xi32>"""


NUMBERS = itertools.count()


def dot():
    """Of 2 * 8 * 8 * 8 operations."""
    return f"""
      %dot{next(NUMBERS)} = stablehlo.dot_general %w, %w, contracting_dims = [1] x [0]
        : (tensor<8x8xf32>, tensor<8x8xf32>) -> tensor<8x8xf32>"""


DOT_FLOPS = 2 * 8**3
DOT = Cost(flops=DOT_FLOPS, memory_bytes=3 * 8 * 8 * 4)


SCAN_S = 1.0
RATES = Rates(400 * KV_TOKEN / SCAN_S, 1e12, DOT_FLOPS / 0.25)
"""A scan takes a second, a product a quarter, the link nothing worth a mention."""
