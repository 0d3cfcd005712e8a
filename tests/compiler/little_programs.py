"""Little programs of marks, as MLIR text: what schedules are tested on."""

import dataclasses

from hypothesis import strategies as st

_KV, _CACHE, _ROWS = "tensor<2x{t}x2x8xf32>", "tensor<2x16x2x8xf32>", "tensor<2xi32>"


@dataclasses.dataclass(frozen=True)
class LittleProgram:
    """Layers of attention: x + attention(x), or x + attention(x) + tanh(x) if it is parallel."""

    n_layers: int
    n_tokens: int
    n_steps: int
    """unrolled, one behind the other"""
    loop: bool
    parallel: bool

    def text(self) -> str:
        caches = [f"%{kind}{layer}" for layer in range(self.n_layers) for kind in "KV"]
        x, kv = self._types()
        types = ", ".join([x, *[_CACHE] * len(caches)])
        arguments = ", ".join(
            [f"%x: {x}", f"%k: {kv}", f"%v: {kv}", f"%rows: {_ROWS}", f"%n: {_ROWS}"]
            + [f"%start{step}: {_ROWS}" for step in range(self.n_steps)]
            + [f"{cache}: {_CACHE}" for cache in caches]
            + ["%go: tensor<i1>"]
        )
        values = ["%x", *caches]
        if self.loop:
            inside = [f"%i{number}" for number in range(len(values))]
            carried = ", ".join(f"{a} = {b}" for a, b in zip(inside, values, strict=True))
            body, results = self._steps(inside)
            lines = [
                f"%r:{len(values)} = stablehlo.while({carried}) : {types}",
                "cond { stablehlo.return %go : tensor<i1> } do {",
                *body,
                f"stablehlo.return {', '.join(results)} : {types}",
                "}",
            ]
            results = [f"%r#{number}" for number in range(len(values))]
        else:
            lines, results = self._steps(values)
        lines.append(f"return {', '.join(results)} : {types}")
        text = "\n".join(lines)
        return (
            f"func.func public @main({arguments}) -> ({types}) {{\n{text}\n}}\n"
            f"func.func private @reference({self._parameters()}) -> ({x}, {_CACHE}, {_CACHE}) {{\n"
            f"return %a0, %a3, %a4 : {x}, {_CACHE}, {_CACHE}\n}}\n"
        )

    def _parameters(self) -> str:
        return ", ".join(f"%a{i}: {kind}" for i, kind in enumerate(self._mark_types()))

    def _types(self) -> tuple[str, str]:
        return f"tensor<2x{self.n_tokens}x4x8xf32>", _KV.format(t=self.n_tokens)

    def _mark_types(self) -> list[str]:
        x, kv = self._types()
        return [x, kv, kv, _CACHE, _CACHE, _ROWS, _ROWS, _ROWS]

    def _steps(self, values: list[str]) -> tuple[list[str], list[str]]:
        lines, (x, *caches) = [], values
        kind = self._types()[0]
        mark_types = ", ".join(self._mark_types())
        for step in range(self.n_steps):
            for layer in range(self.n_layers):
                at = f"{step}_{layer}"
                operands = f"{x}, %k, %v, {', '.join(caches[2 * layer : 2 * layer + 2])}"
                lines += [
                    f'%m{at}:3 = stablehlo.composite "nspjax.cached_attention" {operands}, %rows, '
                    f"%start{step}, %n {{composite_attributes = {{all_rows = true, scale = 0.5 : "
                    "f64, softcap = 0.0 : f64, window = 0 : i64}, decomposition = @reference, "
                    f"version = 1 : i32}} : ({mark_types}) -> ({kind}, {_CACHE}, {_CACHE})",
                    f"%s{at} = stablehlo.add {x}, %m{at}#0 : {kind}",
                ]
                caches[2 * layer : 2 * layer + 2] = [f"%m{at}#1", f"%m{at}#2"]
                if self.parallel:
                    lines += [
                        f"%t{at} = stablehlo.tanh {x} : {kind}",
                        f"%u{at} = stablehlo.add %s{at}, %t{at} : {kind}",
                    ]
                x = f"%u{at}" if self.parallel else f"%s{at}"
        return lines, [x, *caches]


def programs(n_tokens=(1, 3)):
    """A strategy of little programs."""
    return st.builds(
        LittleProgram,
        n_layers=st.integers(1, 4),
        n_tokens=st.sampled_from(n_tokens),
        n_steps=st.integers(1, 2),
        loop=st.booleans(),
        parallel=st.booleans(),
    )
