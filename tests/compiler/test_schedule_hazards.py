"""Every schedule that the passes make is accepted by verify-schedule; every broken one is not."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from little_programs import LittleProgram, programs

from nspjax.compiler import Pipeline, mlir, nsp
from nspjax.compiler.nsp import handles
from nspjax.errors import ScheduleError

SPLIT = st.sampled_from(["", "split-attention"])
DELAY = st.builds(
    "delay-writeback{{interval={} placement={}}}".format,
    st.sampled_from([1, 16, 100]),
    st.sampled_from(["anywhere", "outside-scan", "step-end"]),
)
PREFETCH = st.builds(
    "prefetch{{distance={} order={}}}".format,
    st.integers(1, 5),
    st.sampled_from(["forward", "backward"]),
)
PASSES = st.tuples(SPLIT, st.just("") | DELAY, st.just("") | PREFETCH)


def scheduled(program, *passes):
    names = ["offload-kv", *filter(None, passes)]
    return Pipeline.parse(",".join(names)).run(mlir.parse(program.text()))


def of_kind(module, kind):
    return [op for op in mlir.operations(module) if nsp.kind(op) is kind]


@settings(deadline=None, max_examples=30)
@given(programs(), PASSES)
def test_what_the_passes_make_is_accepted(program, passes):
    module = scheduled(program, *passes, "verify-schedule")
    n_reads = program.n_layers * program.n_steps
    assert sum(len(of_kind(module, kind)) for kind in nsp.READS) == n_reads
    assert len(of_kind(module, nsp.ATTEND_WAIT)) == (n_reads if passes[0] else 0)
    if passes[2] and "forward" in passes[2]:
        assert len(of_kind(module, nsp.PREFETCH)) == n_reads
    held = [op for op in of_kind(module, nsp.APPEND) if nsp.attribute(op, "hold")]
    assert len(held) == (n_reads if passes[1] and program.n_tokens == 1 else 0)
    scheduled(program, *passes, "lower-to-ffi")


@pytest.mark.parametrize("placement", ["anywhere", "outside-scan", "step-end"])
def test_a_schedule_is_in_its_final_order_already(placement):
    """Running the passes on what they made changes nothing."""
    program = LittleProgram(n_layers=3, n_tokens=1, n_steps=1, loop=True, parallel=True)
    module = scheduled(program, "split-attention", f"delay-writeback{{placement={placement}}}")
    before = str(module)
    assert str(Pipeline.parse("split-attention").run(module)) == before


# ---- mutations ----------------------------------------------------------------------------------


def stand_in(op):
    """Erase an operation; its results come from nowhere that a schedule knows."""
    kinds = [result.type for result in op.results]
    mlir.replace(op, mlir.Builder(op).op("test.value", [], kinds))


def drop_a_wait(module, draw):
    stand_in(draw(of_kind(module, nsp.ATTEND_WAIT)))


def drop_the_writebacks_of_a_cache(module, draw):
    chosen = draw(of_kind(module, nsp.WRITEBACK))
    name = handles.root(chosen)
    for op in of_kind(module, nsp.WRITEBACK):
        if handles.root(op) == name:
            stand_in(op)


def use_a_handle_twice(module, draw):
    append = draw(of_kind(module, nsp.APPEND))
    nsp.APPEND.build(mlir.Builder(append), **nsp.operands(append), **nsp.attributes(append))


def read_the_handle_from_before_the_append(module, draw):
    append = draw(of_kind(module, nsp.APPEND))
    for start in of_kind(module, nsp.ATTEND_START):
        if nsp.handle(start) == nsp.next_handle(append):
            nsp.set_handle(start, nsp.handle(append))


def attend_before_the_append(module, draw):
    """A chain that is linear, but whose attention counts a token that is not there yet."""
    start = draw(of_kind(module, nsp.ATTEND_START))
    append = mlir.maker(nsp.handle(start)[0])
    old, appended, attended = nsp.handle(append), nsp.next_handle(append), nsp.next_handle(start)
    for before, after in zip(attended, appended, strict=True):
        before.replace_all_uses_with(after)
    nsp.set_handle(start, old)
    nsp.set_handle(append, attended)
    append.move_after(start)
    for op in of_kind(module, nsp.WRITEBACK):  # it stands between, where its handles come later
        if op.is_before_in_block(append):
            op.move_after(append)


def wait_twice(module, draw):
    wait = draw(of_kind(module, nsp.ATTEND_WAIT))
    kinds = [result.type for result in wait.results]
    mlir.Builder(wait).op(wait.name, list(wait.operands)[:1], kinds)


MUTATIONS = {
    drop_a_wait: "gives a ticket that nothing waits for",
    wait_twice: "waits for nsp.attend_start .*, and so does",
    drop_the_writebacks_of_a_cache: "holds tokens back",
    use_a_handle_twice: "uses up a handle that .* uses up too|reads the handle from before",
    read_the_handle_from_before_the_append: "reads the handle from before",
    attend_before_the_append: "reads the token that",
}


@pytest.mark.parametrize("mutate", MUTATIONS)
@settings(deadline=None, max_examples=8)
@given(programs(n_tokens=(1,)), DELAY, st.data())
def test_a_broken_schedule_is_refused(mutate, program, delay, data):
    module = scheduled(program, "split-attention", delay, "verify-schedule")
    mutate(
        module,
        lambda choices: data.draw(st.sampled_from(range(len(choices))).map(choices.__getitem__)),
    )
    with pytest.raises(ScheduleError, match=MUTATIONS[mutate]):
        Pipeline.parse("verify-schedule").run(module)
