"""What a module may hold after which stage; the driver asks after every pass."""

from __future__ import annotations

from nspjax.compiler import mlir, nsp
from nspjax.compiler.nsp import Stage
from nspjax.compiler.nsp.cache_flow import has_cache_mark
from nspjax.errors import CompilerError


def verify(module: mlir.Module, stage: Stage | None) -> None:
    """Refuse a module that holds what it may not.

    - Operations of the dialect are those of `ops.py`, with the operands, results and attributes
      that they have there. So are the engine's calls by name.
    - Each may stand in a module from its stage on: nsp.attend when caches are offloaded,
      nsp.prefetch when the module is scheduled.
    - When caches are offloaded no mark that has a cache is left.
    - When it is lowered no operation of the dialect is left.

    stage: None where no pass has said how far it brought the module.

    Raises:
      CompilerError: says which operation, and where.
    """
    for op in mlir.operations(module):
        if op.name == "stablehlo.custom_call":
            nsp.call_kind(op)
        elif op.name == "stablehlo.composite":
            if stage is Stage.OFFLOADED or stage is Stage.SCHEDULED:
                _check_no_mark(op, stage)
        elif op.name.startswith(nsp.DIALECT):
            _check_operation(op, stage)


def _check_operation(op: mlir.Operation, stage: Stage | None) -> None:
    kind = nsp.call_kind(op)
    assert kind is not None, "its name begins as ours do"
    kind.check(op)
    if stage is None:
        return
    if stage is Stage.LOWERED:
        raise _refused(op, "is left in a module that is lowered")
    if kind.since is not None and stage < kind.since:
        raise _refused(
            op, f"is in a module that is {_text(stage)}: it may be once that is {_text(kind.since)}"
        )


def _check_no_mark(op: mlir.Operation, stage: Stage) -> None:
    if has_cache_mark(op):
        raise _refused(op, f"is left in a module that is {_text(stage)}: offload-kv comes first")


def _text(stage: Stage) -> str:
    return stage.name.lower()


def _refused(op: mlir.Operation, why: str) -> CompilerError:
    name = mlir.composite_name(op) or op.name
    return CompilerError(f"{name} at {mlir.source_line(op)} {why}")
