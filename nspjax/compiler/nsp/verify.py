"""What a module may hold after which stage; the driver asks after every pass."""

from __future__ import annotations

from nspjax.compiler import mlir, nsp
from nspjax.compiler.nsp import Stage
from nspjax.compiler.nsp.cache_flow import has_cache_mark
from nspjax.errors import CompilerError


class Verifier:
    """Checks modules of one context, operations that are alike only once.

    What `Op.check` says follows from an operation's name, types and attributes. MLIR keeps equal
    types and attributes once in a context, so a set of them costs little, and a decode step has
    hardly more different operations than one of its layers.
    """

    def __init__(self) -> None:
        self._right: set[tuple[object, ...]] = set()

    def module(self, module: mlir.Module, stage: Stage | None) -> None:
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
            name = op.name
            if name == "stablehlo.custom_call":
                nsp.call_kind(op)
            elif name == "stablehlo.composite":
                if stage is Stage.OFFLOADED or stage is Stage.SCHEDULED:
                    _check_no_mark(op, stage)
            elif name.startswith(nsp.DIALECT):
                self.operation(op)
                _check_stage(op, stage)

    def operation(self, op: mlir.Operation) -> None:
        """Refuse an operation of the dialect that `Op.build` would not have made.

        Raises:
          CompilerError: says which, and where.
        """
        attributes = tuple(op.attributes.items())
        alike = (op.name, mlir.types(op.operands), mlir.types(op.results), attributes)
        if alike in self._right:
            return
        kind = nsp.call_kind(op)
        assert kind is not None, "its name begins as ours do"
        kind.check(op)
        self._right.add(alike)


def _check_stage(op: mlir.Operation, stage: Stage | None) -> None:
    if stage is None:
        return
    if stage is Stage.LOWERED:
        raise _refused(op, "is left in a module that is lowered")
    since = nsp.OPS[op.name].since
    if since is not None and stage < since:
        raise _refused(
            op, f"is in a module that is {_text(stage)}: it may be once that is {_text(since)}"
        )


def _check_no_mark(op: mlir.Operation, stage: Stage) -> None:
    if has_cache_mark(op):
        raise _refused(op, f"is left in a module that is {_text(stage)}: offload-kv comes first")


def _text(stage: Stage) -> str:
    return stage.name.lower()


def _refused(op: mlir.Operation, why: str) -> CompilerError:
    name = mlir.composite_name(op) or op.name
    return CompilerError(f"{name} at {mlir.source_line(op)} {why}")
