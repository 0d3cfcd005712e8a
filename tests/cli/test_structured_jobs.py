"""Forms and calls through a whole job with the example model, which was trained on neither."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from jobs import results

import nspjax
from nspjax.generate.batch.job import BatchJob

pytest.importorskip("llguidance", reason="needs the extra structured")

ROOT = Path(__file__).parents[2]
MODEL = str(ROOT / "examples" / "tiny-python-llama")
LINES = (ROOT / "tests" / "generate" / "json_schemas.jsonl").read_text().splitlines()
SCHEMAS = {line["name"]: line["schema"] for line in map(json.loads, LINES)}
QUICK = [
    "integer in a range",
    "enum of strings",
    "pattern",
    "date",
    "tuple",
    "optional properties",
    "array of integers",
    "discriminated union",
    "all of ranges",
    "$ref of $ref",
]
FORMAT = jsonschema.FormatChecker(["uuid", "ipv4", "email"])  # Python knows no year 0
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 4}, "unit": {"enum": ["C", "F"]}},
    "required": ["city", "unit"],
    "additionalProperties": False,
}
TOOLS = [
    {"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}},
    {"type": "function", "function": {"name": "clock"}},
]
CLOCK = {"type": "function", "function": {"name": "clock"}}
HELLO = [{"role": "user", "content": "hello"}]
PROMPT = "def f(x):\n    return "  # as long as HELLO in its template: one program serves both


def run(
    directory: Path, bodies: dict[str, dict[str, Any]], max_model_len: int, **settings: Any
) -> dict[str, dict[str, Any]]:
    """The responses of a job, by custom_id. A body with messages is a chat."""
    source, output = directory / "in.jsonl", directory / "out.jsonl"
    with source.open("w") as file:
        for custom_id, body in bodies.items():
            url = "/v1/chat/completions" if "messages" in body else "/v1/completions"
            line = {"custom_id": custom_id, "method": "POST", "url": url, "body": body}
            file.write(json.dumps(line) + "\n")
    with (
        nspjax.LLM(MODEL, max_model_len=max_model_len, **settings) as llm,
        BatchJob(str(source), str(output), model="tiny") as job,
    ):
        job.run(llm)
    return {custom_id: result["response"] for custom_id, result in results(output).items()}


def of_schema(schema: Any, **body: Any) -> dict[str, Any]:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
    return {"prompt": PROMPT, "max_tokens": 100, "response_format": form, **body}


def chat(**body: Any) -> dict[str, Any]:
    return {"messages": HELLO, "max_tokens": 80, "tools": TOOLS, **body}


@pytest.fixture(scope="module")
def responses(tmp_path_factory: pytest.TempPathFactory):
    bodies = {name: of_schema(SCHEMAS[name], temperature=i % 2) for i, name in enumerate(QUICK)} | {
        "cut": of_schema(SCHEMAS["flat object"], max_tokens=3),
        "ignore_eos": {
            "prompt": PROMPT,
            "max_tokens": 9,
            "guided_regex": "ab?",
            "ignore_eos": True,
        },
        "regex": {"prompt": PROMPT, "max_tokens": 30, "guided_regex": r"[a-f]{3}-\d{2,4}"},
        "choice": {"prompt": PROMPT, "n": 4, "structured_outputs": {"choice": ["yes", "no"]}},
        "object": {"messages": HELLO, "guided_grammar": 'root ::= "{" [a-z] "}"'},
        "bad schema": of_schema({"type": "strin"}),
        "hostile": {"prompt": PROMPT, "guided_regex": "(" * 5000},
        "required": chat(tool_choice="required", parallel_tool_calls=False),
        "named": chat(tool_choice=CLOCK, temperature=0),
        "cut call": chat(tool_choice=CLOCK, max_tokens=5),
        "auto": chat(max_tokens=5),
        "no such tool": chat(tool_choice={"type": "function", "function": {"name": "x"}}),
    }
    directory = tmp_path_factory.mktemp("job")
    return run(directory, bodies, 128, tool_call_parser="hermes", max_num_seqs=8)


def choices(response: dict[str, Any]) -> list[dict[str, Any]]:
    assert response["status_code"] == 200, response
    return response["body"]["choices"]


@pytest.mark.parametrize("name", QUICK)
def test_answers_are_of_their_schemas(responses: dict[str, Any], name: str):
    (choice,) = choices(responses[name])
    assert choice["finish_reason"] == "stop"
    jsonschema.validate(json.loads(choice["text"]), SCHEMAS[name], format_checker=FORMAT)


def test_other_forms(responses: dict[str, Any]):
    (answer,) = choices(responses["regex"])
    assert re.fullmatch(r"[a-f]{3}-\d{2,4}", answer["text"])
    assert {answer["text"] for answer in choices(responses["choice"])} <= {"yes", "no"}
    (answer,) = choices(responses["object"])
    assert re.fullmatch(r"\{[a-z]\}", answer["message"]["content"])
    assert choices(responses["ignore_eos"])[0]["text"] == "ab"


def test_an_answer_that_was_cut_says_so(responses: dict[str, Any]):
    (answer,) = choices(responses["cut"])
    assert answer["finish_reason"] == "length"
    (answer,) = choices(responses["cut call"])
    assert answer["finish_reason"] == "length"
    assert answer["message"]["content"].startswith("<tool")
    assert "tool_calls" not in answer["message"]


@pytest.mark.parametrize(
    ("name", "param", "message"),
    [
        ("bad schema", "response_format", "Invalid type: strin"),
        ("hostile", "guided_regex", "invalid regex"),
        ("no such tool", "tool_choice", "no such tool"),
    ],
)
def test_what_cannot_be_served_is_one_lines_error(
    responses: dict[str, Any], name: str, param: str, message: str
):
    assert responses[name]["status_code"] == 400
    error = responses[name]["body"]["error"]
    assert error["param"] == param
    assert message in error["message"]


def test_calls_in_openais_shape(responses: dict[str, Any]):
    (choice,) = choices(responses["required"])
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    (call,) = choice["message"]["tool_calls"]
    assert call["type"] == "function"
    assert re.fullmatch("[0-9a-z]{9}", call["id"])
    arguments = json.loads(call["function"]["arguments"])
    if call["function"]["name"] == "weather":
        jsonschema.validate(arguments, PARAMETERS)
    (choice,) = choices(responses["named"])
    names = {call["function"]["name"] for call in choice["message"]["tool_calls"]}
    assert names == {"clock"}
    assert choices(responses["auto"])[0]["message"]["content"]


def test_results_are_of_openais_types(responses: dict[str, Any]):
    types = pytest.importorskip("openai.types")
    for response in responses.values():
        if response["status_code"] == 200:
            body = {**response["body"], "created": 0}
            is_chat = body["object"] == "chat.completion"
            kind = types.chat.ChatCompletion if is_chat else types.Completion
            kind.model_validate(body)


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0, 1])
def test_all_fifty_schemas(tmp_path: Path, temperature: int):
    bodies = {
        name: of_schema(schema, temperature=temperature, max_tokens=1000)
        for name, schema in SCHEMAS.items()
    }
    cut = 0
    for name, response in run(tmp_path, bodies, 1024, max_num_seqs=16).items():
        (choice,) = choices(response)
        if choice["finish_reason"] == "length":
            cut += 1
            continue
        jsonschema.validate(json.loads(choice["text"]), SCHEMAS[name], format_checker=FORMAT)
    assert cut <= 3  # a number may have digits without an end
