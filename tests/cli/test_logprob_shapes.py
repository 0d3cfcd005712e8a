"""Where tokens stand in a text, and logprobs that JSON does not have."""

import math

from nspjax.generate.batch.logprob_shapes import completion_logprobs
from nspjax.generate.outputs import Logprob


def test_offsets_within_a_text():
    def record(text: str, raw: bytes, logprob: float = -1.0) -> dict[int, Logprob]:
        return {0: Logprob(logprob, 1, text, raw)}

    euro = "€".encode()
    tokens = [(" a", b" a"), ("<s>", b"<s>"), ("bytes:\\xe2", euro[:1]), ("bytes:\\x82", euro[1:]),
              ("b", b"b")]  # fmt: skip
    found = completion_logprobs([record(*token) for token in tokens], "a€b")
    assert found["text_offset"] == [0, 1, 1, 1, 2]
    spoilt = [("bytes:\\x82", euro[1:2]), *tokens, ("bytes:\\xe2", euro[:1]), ("c", b"c")]
    found = completion_logprobs([record(*token) for token in spoilt], "\ufffd a€b\ufffdc")
    assert found["text_offset"] == [0, 1, 3, 3, 3, 4, 5, 6]
    found = completion_logprobs([record("x", b"x", -math.inf)], "x")
    assert found["token_logprobs"] == [-9999.0]
    assert found["top_logprobs"] == [{"x": -9999.0}]
