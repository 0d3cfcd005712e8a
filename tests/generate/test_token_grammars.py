"""Any way through a grammar, token by token, ends in what `jsonschema` or `re` accepts."""

import contextlib
import json
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from byte_tokenizer import EOS, byte_tokenizer
from tokenizer_forms import byte_level, metaspace, unigram

from nspjax.errors import RequestError
from nspjax.generate.structured import StructuredOutputsParams, grammar_worker, token_grammars
from nspjax.generate.structured.grammar_worker import DONE, UNKNOWN, Matchers
from nspjax.generate.structured.library import GrammarError
from nspjax.generate.structured.token_grammars import TokenGrammars
from nspjax.generate.text.tokenization import answer_text
from nspjax.generate.tools.choice import tools_of
from nspjax.generate.tools.formats import FORMATS, Mistral

pytest.importorskip("llguidance", reason="needs the extra structured")

LINES = (Path(__file__).parent / "json_schemas.jsonl").read_text().splitlines()
SCHEMAS = {line["name"]: line["schema"] for line in map(json.loads, LINES)}
FORMAT = jsonschema.FormatChecker(["uuid", "ipv4", "email"])  # Python knows no year 0
MOST_TOKENS = 2000


class Walker:
    """Answers of random allowed tokens."""

    def __init__(self, tokenizer, extra_tokens=0):
        self.tokenizer = tokenizer
        self.vocab_size = len(tokenizer) + extra_tokens
        self.grammars = TokenGrammars(tokenizer, self.vocab_size)
        self.prompt = tokenizer.encode("x")

    def tokens(self, params, seed, end_tokens=None):
        """The tokens without the end token, and that; None: it ended because nothing may follow."""
        ends = [self.tokenizer.eos_token_id] if end_tokens is None else end_tokens
        mask = self.grammars.mask(params, ends)
        draw, tokens = random.Random(seed), []
        while len(tokens) < MOST_TOKENS:
            allowed = allowed_tokens(mask)
            assert allowed
            assert allowed[-1] < self.vocab_size
            token = draw.choice(allowed)
            if token in ends:
                return tokens, token
            mask.accept(token)
            tokens.append(token)
            if mask.finished:
                return tokens, None
        raise AssertionError("no end in sight")

    def text(self, seed, **params):
        tokens, _ = self.tokens(StructuredOutputsParams(**params), seed)
        return answer_text(self.tokenizer, self.prompt, tokens)


def allowed_tokens(mask):
    words = mask.allowed()
    assert words.dtype == np.uint32
    return np.flatnonzero(np.unpackbits(words.view(np.uint8), bitorder="little")).tolist()


@pytest.fixture(scope="module", params=[byte_tokenizer, byte_level, metaspace])
def walker(request):
    made = Walker(request.param())
    yield made
    made.grammars.close()


@pytest.fixture(scope="module")
def byte_walker():
    made = Walker(byte_tokenizer())
    yield made
    made.grammars.close()


def test_there_are_fifty_schemas():
    assert len(SCHEMAS) == len(LINES) == 50


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_way_through_a_schema_validates(byte_walker, name):
    answer = json.loads(byte_walker.text(3, json=SCHEMAS[name]))
    jsonschema.validate(answer, SCHEMAS[name], format_checker=FORMAT)


@pytest.mark.parametrize("name", list(SCHEMAS)[::6])
def test_so_it_does_whatever_the_tokens_are(walker, name):
    for seed in range(2):
        answer = json.loads(walker.text(seed, json=json.dumps(SCHEMAS[name])))
        jsonschema.validate(answer, SCHEMAS[name], format_checker=FORMAT)


@pytest.mark.parametrize(
    "regex",
    [
        "a",
        r"[ab]{2,5}\d?",
        r"(yes|no)( really){0,2}!",
        r"\w+@[a-z]{1,9}\.(com|org)",
        r"[^a-z]{3}",
        r"^x.?€+$",
        r"(?i)abc",
        "<s>|</s>|<tool>[0-9]",
    ],
)
def test_every_way_through_a_regular_expression_matches(walker, regex):
    for seed in range(4):
        assert re.fullmatch(regex, walker.text(seed, regex=regex))


def test_every_choice_and_no_other_is_chosen(walker):
    choices = ["hello", "hello world", "hello<tool>b", "<|x|>", '"quoted" \\ and\nbroken', "é€😀"]
    found = {walker.text(seed, choice=choices) for seed in range(100)}
    assert found == set(choices)


def test_the_text_of_a_special_token_is_text(walker):
    """Not the token itself, which would end the answer here."""
    text = walker.text(0, choice=["hello</s>b<tool>c"])
    assert text == "hello</s>b<tool>c"


def test_a_tokenizer_that_cannot_be_used_is_named():
    with pytest.raises(RequestError, match=r"tokenizer cannot be used.*Metaspace"):
        Walker(unigram()).text(0, choice=["hello"])


GBNF = 'root ::= "a" (item ",")* item\nitem ::= [0-9]{1,2} | "x"\n'
LARK = 'start: "a" (item ",")* item\nitem: /[0-9]{1,2}/ | "x"\n'


@pytest.mark.parametrize("grammar", [GBNF, LARK])
def test_grammars_in_both_notations(byte_walker, grammar):
    for seed in range(5):
        assert re.fullmatch(r"a((\d\d?|x),)*(\d\d?|x)", byte_walker.text(seed, grammar=grammar))


def test_an_object_of_any_kind(byte_walker):
    for seed in range(5):
        assert isinstance(json.loads(byte_walker.text(seed, json_object=True)), dict)


def test_text_with_tags(byte_walker):
    tag = {
        "structures": [{"begin": "<f>", "schema": {"enum": [1, 2]}, "end": "</f>"}],
        "triggers": ["<f"],
    }
    mask = byte_walker.grammars.mask(StructuredOutputsParams(structural_tag=tag), [EOS])
    for byte in b"any text <f":
        assert byte in allowed_tokens(mask)
        mask.accept(byte)
    assert allowed_tokens(mask) == [ord(">")]
    for byte in b">1</f>":
        mask.accept(byte)
    assert EOS in allowed_tokens(mask)


@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        ({}, r'\{( |\n {0,32})?"a"( |\n {0,32})?:( |\n {0,32})?1( |\n {0,32})?\}'),
        ({"disable_any_whitespace": True}, r'\{"a":1\}'),
        ({"whitespace_pattern": "_"}, r'\{_?"a"_?:_?1_?\}'),
    ],
)
def test_space_between_tokens_has_a_bound(byte_walker, options, pattern):
    schema = {"properties": {"a": {"const": 1}}, "required": ["a"], "additionalProperties": False}
    for seed in range(5):
        text = byte_walker.text(seed, json={"type": "object", **schema}, **options)
        assert re.fullmatch(pattern, text)


def test_additional_properties_may_be_disabled(byte_walker):
    schema = {"type": "object", "properties": {"a": {"const": 1}, "b": {"type": "object"}}}
    for seed in range(5):
        text = byte_walker.text(seed, json=schema, disable_additional_properties=True)
        assert json.loads(text).keys() <= {"a", "b"}


def test_a_schema_cannot_turn_checks_off(byte_walker):
    schema = {"type": "integer", "not": {}, "x-guidance": {"lenient": True}}
    with pytest.raises(GrammarError, match="not"):
        byte_walker.grammars.check(StructuredOutputsParams(json=schema))


# ---- where an answer may end --------------------------------------------------------------------


def test_an_answer_ends_where_the_grammar_does_and_only_there(byte_walker):
    params = StructuredOutputsParams(regex="ab*c?")
    mask = byte_walker.grammars.mask(params, [EOS, 7])
    assert allowed_tokens(mask) == [ord("a")]
    mask.accept(ord("a"))
    assert allowed_tokens(mask) == [7, *b"bc", EOS]
    assert not mask.finished
    mask.accept(ord("c"))
    assert mask.finished


def test_without_end_tokens_an_answer_goes_on_as_far_as_it_may(byte_walker):
    tokens, ended = byte_walker.tokens(StructuredOutputsParams(regex="ab?c?"), 0, end_tokens=[])
    assert (bytes(tokens), ended) == (b"abc", None) or bytes(tokens) in (b"ac",)


def test_special_tokens_are_no_text(walker):
    anything = walker.grammars.mask(StructuredOutputsParams(regex=r"(.|\n)*"), [])
    special = set(walker.tokenizer.all_special_ids)
    assert special.isdisjoint(allowed_tokens(anything))


@pytest.mark.parametrize("extra", [-2, 0, 3, 100])
def test_a_model_may_have_fewer_or_more_tokens_than_its_tokenizer(extra):
    walker = Walker(byte_tokenizer(), extra)
    tokens, _ = walker.tokens(StructuredOutputsParams(choice=["ab"]), 0, end_tokens=[EOS])
    assert bytes(tokens) == b"ab"


def test_answers_of_one_grammar_are_apart(byte_walker):
    params = StructuredOutputsParams(choice=["ab", "cd"])
    one, other = (byte_walker.grammars.mask(params, [EOS]) for _ in range(2))
    one.accept(ord("a"))
    assert allowed_tokens(one) == [ord("b")]
    assert allowed_tokens(other) == list(b"ac")


def test_an_answer_that_is_no_more_is_forgotten(byte_walker, monkeypatch):
    sent = []
    ask = byte_walker.grammars._process.ask
    monkeypatch.setattr(
        byte_walker.grammars._process,
        "ask",
        lambda request, seconds: sent.append(json.loads(request)) or ask(request, seconds=seconds),
    )
    params = StructuredOutputsParams(choice=["ab", "cd"])
    mask = byte_walker.grammars.mask(params, [EOS])
    mask.allowed()
    was = mask.id
    del mask
    byte_walker.grammars.mask(params, [EOS]).allowed()
    assert was in sent[-1]["drop"]
    step = json.dumps({"step": was, "token": ord("a")}).encode()
    assert ask(step, seconds=1) == UNKNOWN


@pytest.mark.parametrize(("bytes_left", "n_kept"), [(2 << 30, 40), (1 << 29, 32)])
def test_fewer_compiled_grammars_are_kept_where_memory_is_short(monkeypatch, bytes_left, n_kept):
    monkeypatch.setattr(grammar_worker, "memory_left_bytes", lambda: bytes_left)
    compiled = []
    monkeypatch.setattr(Matchers, "_compiled", lambda self, form: compiled.append(form) or "a form")
    matchers = Matchers()
    matchers._tokenizer = "a tokenizer"
    forms = [{"choice": [str(i)]} for i in range(40)]
    for form in forms + forms[40 - n_kept :]:
        assert matchers.answer(json.dumps({"check": form}).encode()) == DONE
    assert compiled == forms
    matchers.answer(json.dumps({"check": forms[0]}).encode())
    assert len(compiled) == (40 if n_kept == 40 else 41)


def test_the_process_knows_how_much_memory_is_left():
    script = (
        "import math\n"
        "from nspjax.generate.limited_process import child\n"
        "assert child.memory_left_bytes() == math.inf\n"
        "child._limit_memory(1 << 28)\n"
        "used = bytearray(1 << 26)\n"
        "print(child.memory_left_bytes() >> 20)\n"
    )
    left = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout
    assert 180 <= int(left) <= 192


# ---- calls --------------------------------------------------------------------------------------

PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 6}, "tag": {"enum": ["</tool_call>"]}},
    "required": ["city"],
    "additionalProperties": False,
    "description": "a ::= b",
}
TOOLS = [
    {"type": "function", "function": {"name": 'weather "now"', "parameters": PARAMETERS}},
    {"type": "function", "function": {"name": "clock"}},
]


@pytest.mark.parametrize("several", [True, False])
@pytest.mark.parametrize("form", [*FORMATS.values(), Mistral(named=True)], ids=lambda f: f.name)
def test_calls_that_must_be_made_are_read_again(form, several):
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["<tool_call>", "</tool_call>"])
    tokenizer.add_special_tokens({"additional_special_tokens": ["[TOOL_CALLS]"]})
    walker = Walker(tokenizer)
    functions = tools_of(TOOLS[getattr(form, "named", False) :], "required").functions
    rules = form.rules(functions, several=several, literal=walker.grammars.literal)
    counts = set()
    for seed in range(8):
        tokens, _ = walker.tokens(StructuredOutputsParams(grammar=rules), seed)
        read = form.read(tokenizer.decode(tokens, skip_special_tokens=False))
        assert read.content is None
        counts.add(len(read.calls))
        by_name = {function.name: function.parameters for function in functions}
        for call in read.calls:
            jsonschema.validate(json.loads(call.arguments), by_name[call.name])
    assert (counts == {1}) == (not several)


# ---- what cannot be served ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"json": {"type": "strin"}}, "Invalid type: strin"),
        ({"json": "{"}, "json must be JSON"),
        ({"json": {"type": "object", "not": {}}}, 'Unimplemented keys: \\["not"\\]'),
        ({"json": {"$ref": "#/$defs/none"}}, "none"),
        ({"json": {"$ref": "#"}}, "no answer"),
        ({"json": {"enum": []}}, "(?i)enum|unsatisfiable"),
        ({"json": {"x": float("inf")}}, "cannot be used"),
        ({"json": {"x": object()}}, "JSON"),
        ({"regex": "("}, "unclosed group"),
        ({"regex": "a(?=b)"}, "look-ahead"),
        ({"grammar": "root ::= other"}, "other"),
        ({"grammar": "start: other"}, "other"),
        ({"grammar": "start: start"}, "no answer"),
        ({"grammar": "what?"}, "cannot be read"),
        ({"structural_tag": {}}, "structures"),
        ({"structural_tag": {"structures": [{"begin": "a", "schema": {}, "end": ""}],
                             "triggers": ["b"]}}, "starting with a trigger"),
        ({"choice": ["\ud800"]}, "surrogates"),
    ],
)  # fmt: skip
def test_what_has_no_meaning_is_refused(byte_walker, params, message):
    with pytest.raises(GrammarError, match=message):
        byte_walker.grammars.check(StructuredOutputsParams(**params))


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"json": {}, "regex": "a"},
        {"json": 3},
        {"regex": ""},
        {"choice": []},
        {"choice": "ab"},
        {"choice": [1]},
        {"json_object": 1},
        {"regex": "a", "disable_any_whitespace": 1},
        {"regex": "a", "whitespace_pattern": 1},
    ],
)
def test_what_is_of_a_wrong_type_is_refused(params):
    with pytest.raises(RequestError):
        StructuredOutputsParams(**params)


def nested(depth):
    return '{"items":' * depth + "{}" + "}" * depth


def alternatives(n, m):
    options = [
        {"anyOf": [{"properties": {f"p{i}_{j}": {"type": "integer"}}} for j in range(m)]}
        for i in range(n)
    ]
    return {"type": "object", "allOf": options}


LONG = 20_000
HOSTILE = {
    "deep": {"json": nested(100_000)},
    "deeper than it may be": {"json": nested(900)},
    "products": {"json": alternatives(8, 10)},
    "references in a circle": {"json": {"$ref": "#/a", "a": {"$ref": "#/b"}, "b": {"$ref": "#/a"}}},
    "a chain of references": {  # overflows the stack
        "json": {"$ref": "#/$defs/d0", "$defs": {"d7000": {"type": "integer"}}
                 | {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(7000)}},
    },
    "2^40 by reference": {
        "json": {"$ref": "#/$defs/d0", "$defs": {"d40": {"type": "integer"}}
                 | {f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(40)}},
    },
    "many values": {"json": {"enum": [f"value {i}" for i in range(15_000)]}},
    "many patterns": {"json": {"patternProperties": {f"^x{i}_": {} for i in range(5000)}}},
    "patterns at once": {"json": {"type": "string", "allOf": [
        {"pattern": f".*a.{{{20 * i}}}b"} for i in range(1, 10)]}},
    "states": {"regex": "(.*a.{20}){10}"},
    "counts of counts": {"regex": "((a{0,100}){0,100}){0,100}"},
    "a count": {"regex": "a{1000000000}"},
    "groups": {"regex": "(" * LONG + "a" + ")" * LONG},
    "options": {"regex": "a?" * 100_000},  # overflows the stack
    "length": {"regex": "a" * 2_000_000},
    "a million items": {"json": {"type": "array", "minItems": 1_000_000}},
    "repeats": {"grammar": 'start: "a"{1000000}'},
    "brackets": {"grammar": "start: " + "(" * LONG + '"a"' + ")" * LONG},
    "brackets in GBNF": {"grammar": "root ::= " + "(" * LONG + '"a"' + ")" * LONG},
    "left recursion": {"grammar": 'start: start start | "a" | ""'},
    "ambiguity": {"grammar": 'start: a a a a a a\na: b b b b b b b b\nb: "x"{0,50} | b b'},
}  # fmt: skip


QUICK = ("a chain of references", "many patterns", "a count", "states")


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in HOSTILE],
)
def test_hostile_forms_fail_alone_and_in_time(byte_walker, monkeypatch, name):
    """Refused, or some answer or error, and the next request is served."""
    monkeypatch.setattr(token_grammars, "GRAMMAR_SECONDS", 1.0)
    params = StructuredOutputsParams(**HOSTILE[name])
    other = byte_walker.grammars.mask(StructuredOutputsParams(choice=["abc"]), [EOS])
    assert allowed_tokens(other) == [ord("a")]
    other.accept(ord("a"))
    began = time.monotonic()
    with contextlib.suppress(GrammarError):
        byte_walker.grammars.check(params)
        mask = byte_walker.grammars.mask(params, [EOS])
        for seed in range(50):
            token = random.Random(seed).choice(allowed_tokens(mask))
            if token == EOS or mask.finished:
                break
            mask.accept(token)
    assert time.monotonic() - began < 20
    other.accept(ord("b"))
    assert allowed_tokens(other) == [ord("c")]


@pytest.mark.parametrize(
    ("name", "seconds", "message"),
    [
        ("a chain of references", 10, r"library failed at it, or used more than 2048 MiB"),
        ("many patterns", 0.3, r"took more than 0\.3 s"),
    ],
)
def test_what_ends_the_process_is_told(byte_walker, monkeypatch, name, seconds, message):
    monkeypatch.setattr(token_grammars, "GRAMMAR_SECONDS", seconds)
    with pytest.raises(GrammarError, match=message) as refused:
        byte_walker.grammars.check(StructuredOutputsParams(**HOSTILE[name]))
    assert len(str(refused.value)) < 500
