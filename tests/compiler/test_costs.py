"""What an execution moves and when: counted by hand."""

import dataclasses
import itertools
import math
import re

import pytest

from nspjax.compiler import Pipeline, mlir, nsp
from nspjax.compiler.machine.costs import Cost, capacity_tokens, module_costs
from nspjax.compiler.machine.lanes import Lane
from nspjax.compiler.machine.picture import layers_svg
from nspjax.compiler.machine.rates import Rates
from nspjax.compiler.machine.timeline import Schedule
from nspjax.errors import CompilerError

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


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (append(0), Cost(link_bytes=NEW_BYTES, written_bytes=NEW_BYTES)),
        (attend(0), Cost(link_bytes=Q_BYTES + OUT_BYTES, read_bytes=400 * KV_TOKEN)),
        (attend(0, window=30), Cost(link_bytes=Q_BYTES + OUT_BYTES, read_bytes=120 * KV_TOKEN)),
        (start(0), Cost(link_bytes=Q_BYTES, read_bytes=400 * KV_TOKEN)),
        (start(0) + wait(0), Cost(link_bytes=Q_BYTES + OUT_BYTES, read_bytes=400 * KV_TOKEN)),
        (
            attend(0, op="haul", more="chunk_tokens = 64 : i64"),
            Cost(
                4 * 4 * 4 * 8 * 100, 400 * KV_TOKEN, 400 * KV_TOKEN, attended_bytes=400 * KV_TOKEN
            ),
        ),
        (prefetch(0) + start(0), Cost(link_bytes=Q_BYTES, read_bytes=400 * KV_TOKEN)),
        (
            append(0, hold="true") + writeback(0),
            Cost(link_bytes=NEW_BYTES, written_bytes=NEW_BYTES),
        ),
        (dot() + dot(), DOT * 2),
    ],
)
def test_one_operation(body, expected):
    assert module_costs(main(body)).total == expected


def test_context():
    def read(module, context_tokens):
        return module_costs(module, context_tokens).total.read_bytes / (4 * KV_TOKEN)

    module = main(attend(0))
    assert [read(module, n) for n in (1, 40, 100, 1000, None)] == [1, 40, 100, 100, 100]
    assert read(main(attend(0, window=30)), 20) == 20
    assert capacity_tokens(module) == 100
    assert capacity_tokens(main(dot())) is None


def test_a_cache_that_is_not_known():
    module = main(attend(0, cache=""))
    with pytest.raises(CompilerError, match=r"nsp.attend .* nsp.cache_attributes"):
        module_costs(module)
    # another operation on the same cache says it, or none does
    assert module_costs(
        main(append(0) + attend(0, handles="%append0#0, %append0#1", cache=""))
    ) == (module_costs(main(append(0) + attend(0, handles="%append0#0, %append0#1"))))


@pytest.mark.parametrize(
    "text",
    [
        '"nsp.rotate"(%rows)',
        "stablehlo.custom_call @nspjax.rotate(%rows) {api_version = 4 : i32}",
    ],
)
def test_an_operation_that_is_not_known(text):
    """It is neither free nor invisible."""
    module = main(f"%r = {text} : (tensor<4xi32>) -> tensor<4xi32>")
    for ask in (module_costs, capacity_tokens, lambda module: Schedule.of(module).on(RATES)):
        with pytest.raises(CompilerError, match=r"rotate at .* is no operation of nspjax; there"):
            ask(module)


def test_an_operation_without_a_place_in_a_timeline(monkeypatch):
    rotate = dataclasses.replace(nsp.LOAD_AHEAD, name="nsp.rotate")
    monkeypatch.setitem(nsp.OPS, rotate.name, rotate)
    module = main('%r = "nsp.rotate"(%k0) : (tensor<4xi32>) -> tensor<1xi32>')
    assert module_costs(module).operations == {"nsp.rotate": 1}
    with pytest.raises(CompilerError, match=r"nsp.rotate at .* has no place in a timeline"):
        Schedule.of(module).on(RATES)


def test_calls_and_loops():
    """A function is as much as its calls; a loop is one turn of it."""
    module = mlir.parse(
        """
        func.func public @main(%x: tensor<8x8xf32>, %n: tensor<i32>) -> tensor<8x8xf32> {
          %0 = call @twice(%x) : (tensor<8x8xf32>) -> tensor<8x8xf32>
          %1 = call @twice(%0) : (tensor<8x8xf32>) -> tensor<8x8xf32>
          %2:2 = stablehlo.while(%i = %n, %y = %1) : tensor<i32>, tensor<8x8xf32>
          cond {
            %go = stablehlo.compare LT, %i, %n : (tensor<i32>, tensor<i32>) -> tensor<i1>
            stablehlo.return %go : tensor<i1>
          } do {
            %3 = func.call @twice(%y) : (tensor<8x8xf32>) -> tensor<8x8xf32>
            stablehlo.return %i, %3 : tensor<i32>, tensor<8x8xf32>
          }
          return %2#1 : tensor<8x8xf32>
        }
        func.func private @twice(%x: tensor<8x8xf32>) -> tensor<8x8xf32> {
          %0 = stablehlo.dot_general %x, %x, contracting_dims = [1] x [0]
            : (tensor<8x8xf32>, tensor<8x8xf32>) -> tensor<8x8xf32>
          %1 = stablehlo.dot_general %0, %x, contracting_dims = [1] x [0]
            : (tensor<8x8xf32>, tensor<8x8xf32>) -> tensor<8x8xf32>
          return %1 : tensor<8x8xf32>
        }"""
    )
    costs = module_costs(module)
    assert costs.operations == {"stablehlo.dot_general": 6}
    assert costs.total == DOT * 6


def test_a_loop_of_chunks():
    """The engine's fetch in a loop: as often as the context has chunks."""
    module = main(
        """
        %zero = stablehlo.constant dense<0> : tensor<1xi32>
        %0:2 = stablehlo.while(%a = %k0, %b = %v0) : tensor<4xi32>, tensor<4xi32>
        cond {
          %true = stablehlo.constant dense<true> : tensor<i1>
          stablehlo.return %true : tensor<i1>
        } do {
          %c:4 = "nsp.fetch"(%a, %b, %rows, %zero, %rows) {"""
        + CACHE
        + """, n_tokens = 32 : i64}
            : (tensor<4xi32>, tensor<4xi32>, tensor<4xi32>, tensor<1xi32>, tensor<4xi32>)
            -> (tensor<4x32x2x8xbf16>, tensor<4x32x2x8xbf16>, tensor<4xi32>, tensor<4xi32>)
          %d = stablehlo.dot_general %w, %w, contracting_dims = [1] x [0]
            : (tensor<8x8xf32>, tensor<8x8xf32>) -> tensor<8x8xf32>
          stablehlo.return %c#2, %c#3 : tensor<4xi32>, tensor<4xi32>
        }"""
    )
    chunk_bytes = 4 * 32 * KV_TOKEN
    moved = Cost(link_bytes=chunk_bytes, read_bytes=chunk_bytes)
    for _ in range(2):
        assert module_costs(module, 100).total == (DOT + moved) * 4
        module = Pipeline.parse("lower-to-ffi").run(module)


def test_rows_whose_x_is_kept():
    """One row of four: the others alone are in the cache, and it alone in the companion."""
    module = main(
        append(0)
        + attend(0, handles="%append0#0, %append0#1")
        + f"""
        %x:2 = "nsp.x_cache"(%append0#0, %append0#1) {{{CACHE}, head_dim = 8 : i64,
          n_heads = 2 : i64}} : (tensor<4xi32>, tensor<4xi32>) -> (tensor<4xi32>, tensor<4xi32>)"""
        + append(1, k=("%x#0", "%x#1"))
        + """
        %zero = stablehlo.constant dense<0> : tensor<1xi32>
        %row = stablehlo.slice %rows [3:4] : (tensor<4xi32>) -> tensor<1xi32>
        %c:4 = "nsp.fetch"(%append1#0, %append1#1, %row, %zero, %row) {"""
        + CACHE
        + """,
          n_tokens = 100 : i64} : (tensor<4xi32>, tensor<4xi32>, tensor<1xi32>,
          tensor<1xi32>, tensor<1xi32>)
          -> (tensor<1x100x2x8xbf16>, tensor<1x100x2x8xbf16>, tensor<4xi32>, tensor<4xi32>)"""
    )
    total = module_costs(module).total
    assert total.written_bytes == NEW_BYTES * 3 // 4 + NEW_BYTES // 4
    assert total.read_bytes == 300 * KV_TOKEN + 100 * KV_TOKEN
    found = Schedule.of(module).on(RATES)
    assert len(found.layer_begins_s) == 1
    assert {"append L0", "attend L0", "append X0", "fetch X0"} <= {s.label for s in found.spans}


def test_lowering_changes_nothing():
    module = main(append(0) + start(0, "%append0#0, %append0#1") + wait(0) + dot())
    before = module_costs(module, 50)
    after = module_costs(Pipeline.parse("lower-to-ffi").run(module), 50)
    assert after.total == before.total
    assert after.operations["nspjax.attend_start"] == 1


# ---- when ---------------------------------------------------------------------------------------

SCAN_S = 1.0
RATES = Rates(400 * KV_TOKEN / SCAN_S, 1e12, DOT_FLOPS / 0.25)
"""A scan takes a second, a product a quarter, the link nothing worth a mention."""


def spans(body, lane=None, n_layers=2, rates=RATES):
    found = Schedule.of(main(body, n_layers=n_layers)).on(rates).spans
    rounded = [(s.label, round(s.begin_s, 3), round(s.end_s, 3)) for s in found if s.lane is lane]
    return sorted(rounded, key=lambda span: span[1:])


def test_attend_waits():
    body = dot() + attend(0) + dot() + dot()
    assert spans(body, Lane.device) == [("attend L0", 0.25, 1.25)]
    assert spans(body, Lane.compute) == [("matmul", 0, 0.25), ("2 matmuls", 1.25, 1.75)]


def test_what_is_between_start_and_wait_overlaps():
    body = start(0) + dot() + wait(0) + dot()
    assert spans(body, Lane.device) == [("attend L0", 0, 1)]
    assert spans(body, Lane.compute) == [("matmul", 0, 0.25), ("matmul", 1, 1.25)]


def test_the_device_takes_one_at_a_time():
    body = start(0) + start(1) + wait(0) + dot() + wait(1)
    assert spans(body, Lane.device) == [("attend L0", 0, 1), ("attend L1", 1, 2)]
    assert spans(body, Lane.compute) == [("matmul", 1, 1.25)]


def test_prefetch_is_not_read_again():
    half = 200 * KV_TOKEN
    between = "".join(dot() for _ in range(8))
    body = prefetch(1, most_bytes=half) + attend(0) + between + attend(1)
    assert spans(body, Lane.device) == [
        ("attend L0", 0, 1),
        ("prefetch L1", 1, 1.5),
        ("attend L1", 3, 3.5),
    ]


def test_what_the_engine_guesses():
    body = attend(0, read_ahead="true") + dot() + attend(1, read_ahead="true")
    assert spans(body, Lane.device) == [("attend L0", 0, 1), ("read ahead L1", 1, 2)]


def test_writes():
    slow = Rates(4 * KV_TOKEN, 1e12, RATES.compute_flops)  # a token a second
    beside = spans(append(0) + dot() + attend(1), Lane.writes, rates=slow)
    assert beside == [("append L0", 0, 1)]
    held = append(0, hold="true") + start(1) + writeback(0, exclusive="{0}") + start(0) + wait(1)
    for exclusive, written, scanned in (("false", (0, 1), 100), ("true", (100, 101), 101)):
        body = held.replace("{0}", exclusive)
        assert spans(body, Lane.writes, rates=slow) == [("write back L0", *written)]
        assert spans(body, Lane.device, rates=slow)[1][1] == scanned


def test_writes_have_a_rate_of_their_own():
    slow = Rates(4 * KV_TOKEN, 1e12, RATES.compute_flops, write_bytes_per_s=KV_TOKEN)
    assert spans(append(0), Lane.writes, rates=slow) == [("append L0", 0, 4)]


def test_products_wait_for_their_operands():
    rates = dataclasses.replace(RATES, memory_bytes_per_s=DOT.memory_bytes / 2)
    assert spans(dot(), Lane.compute, rates=rates) == [("matmul", 0, 2)]
    fast = dataclasses.replace(rates, memory_bytes_per_s=1e12)
    assert spans(dot(), Lane.compute, rates=fast) == [("matmul", 0, 0.25)]


def test_no_more_is_read_ahead_than_there_is_room_for():
    rates = dataclasses.replace(RATES, read_ahead_bytes=100 * KV_TOKEN)  # a quarter of a scan
    between = "".join(dot() for _ in range(8))
    body = attend(0, read_ahead="true") + between + attend(1, read_ahead="true")
    assert spans(body, Lane.device, rates=rates) == [
        ("attend L0", 0, 1),
        ("read ahead L1", 1, 1.25),
        ("attend L1", 3, 3.75),
    ]
    # what was announced and did not fit is read ahead when there is room again
    later = "".join(dot() for _ in range(8))
    body = prefetch(1) + prefetch(2) + attend(0) + between + attend(1) + later + attend(2)
    assert spans(body, Lane.device, n_layers=3, rates=rates) == [
        ("attend L0", 0, 1),
        ("prefetch L1", 1, 1.25),
        ("attend L1", 3, 3.75),
        ("prefetch L2", 3.75, 4),
        ("attend L2", 5.75, 6.5),
    ]


def test_attention_on_the_processors_of_the_compute_device():
    """As long as a pass over K and V in memory, hidden as far as nothing else is computed."""
    rates = dataclasses.replace(
        RATES, processors_apart=False, memory_bytes_per_s=400 * KV_TOKEN / 0.5
    )
    waits = start(0) + wait(0) + start(1) + "".join(dot() for _ in range(3)) + wait(1)
    assert spans(waits, Lane.compute, rates=rates) == [
        ("attend L0", 0.5, 1),
        ("3 matmuls", 1, 1.75),
        ("attend L1", 1.75, 2.25),
    ]


def test_hauled_keys_and_values_are_attended_at_their_rate():
    rates = dataclasses.replace(RATES, attend_bytes_per_s=100 * KV_TOKEN)
    body = attend(0, op="haul", more="chunk_tokens = 64 : i64")
    ((label, begin_s, end_s),) = spans(body, Lane.compute, rates=rates)
    assert (label, begin_s) == ("attend L0", 0)
    assert end_s == pytest.approx(4 + 4 * 4 * 4 * 8 * 100 / RATES.compute_flops, abs=1e-3)


def test_the_link_takes_one_at_a_time():
    rates = Rates(1e12, Q_BYTES, 1e12)
    body = append(0) + attend(0)
    queued = spans(body, Lane.link, rates=rates)
    assert [label for label, _, _ in queued] == ["append L0", "q L0", "out L0"]
    assert all(a[2] <= b[1] for a, b in itertools.pairwise(queued))
    assert queued[1][2] - queued[1][1] == 1


def test_layers_begin():
    schedule = Schedule.of(main(attend(1) + dot() + attend(0), n_layers=2)).on(RATES)
    assert [round(begin_s, 3) for begin_s in schedule.layer_begins_s] == [0, 1.25]
    assert round(schedule.end_s, 3) == 2.25
    assert round(schedule.busiest_s, 3) == 2, "the device"


# ---- as a picture -------------------------------------------------------------------------------


def boxes(svg):
    """(x, width, hint) of each labelled box, and (x, y, text) of each text."""
    found = re.findall(r'<rect x="([\d.]+)"[^>]*? width="([\d.]+)"[^>]*><title>([^<]*)', svg)
    texts = re.findall(r'<text x="([\d.]+)" y="([\d.]+)"[^>]*>([^<]*)<', svg)
    return found, texts


def test_two_layers_in_the_middle():
    body = "".join(append(layer) + attend(layer) + dot() for layer in range(4))
    svg = layers_svg(Schedule.of(main(body, n_layers=4)).on(RATES), RATES)
    found, texts = boxes(svg)
    labels = {label for _, _, label in texts}
    assert {"attend L1", "attend L2", "append L1", "append L2", "matmul"} <= labels
    assert not {"attend L0", "attend L3"} & labels
    assert "layers 1 to 2 of 4" in svg
    width = int(re.search(r'width="(\d+)"', svg)[1])
    assert all(float(x) >= 0 and float(x) + float(w) <= width for x, w, _ in found)
    scans = [float(w) for _, w, hint in found if hint == "attend L1: 1 s"]
    products = [float(w) for _, w, hint in found if hint == "matmul: 250 ms"]
    assert math.isclose(scans[0], 4 * products[0], rel_tol=0.01)


def test_labels_are_beside_each_other():
    """Many short boxes: every one has its label, and none is on another."""
    rates = Rates(1e12, 1e9, 1e3)
    body = dot() + "".join(append(layer) + attend(layer) for layer in range(5)) + dot()
    svg = layers_svg(Schedule.of(main(body, n_layers=5)).on(rates), rates, n_layers=9)
    found, texts = boxes(svg)
    for hint in {hint.partition(":")[0] for _, _, hint in found}:
        assert hint in {label for _, _, label in texts}
    placed = [(float(y), float(x), x2) for x, y, t in texts for x2 in [float(x) + 6 * len(t)]]
    starts = [p for p, (_, _, text) in zip(placed, texts, strict=True) if " L" in text]
    for (y1, begin1, end1), (y2, begin2, end2) in itertools.combinations(starts, 2):
        assert y1 != y2 or end1 <= begin2 or end2 <= begin1
