"""JSON schemas through a whole job with the example model, which was not trained on JSON."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from jobs import request_line, results

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
PROMPT = "def f(x):\n    return "


def run(
    directory: Path, bodies: dict[str, dict[str, Any]], max_model_len: int, **settings: Any
) -> dict[str, dict[str, Any]]:
    """The responses of a job, by custom_id."""
    source, output = directory / "in.jsonl", directory / "out.jsonl"
    with source.open("w") as file:
        for custom_id, body in bodies.items():
            file.write(request_line(custom_id, **body))
    with (
        nspjax.LLM(MODEL, max_model_len=max_model_len, **settings) as llm,
        BatchJob(str(source), str(output), model="tiny") as job,
    ):
        job.run(llm)
    return {custom_id: result["response"] for custom_id, result in results(output).items()}


def of_schema(schema: Any, **body: Any) -> dict[str, Any]:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
    return {"prompt": PROMPT, "max_tokens": 100, "response_format": form, **body}


@pytest.fixture(scope="module")
def responses(tmp_path_factory: pytest.TempPathFactory):
    bodies = {name: of_schema(SCHEMAS[name], temperature=i % 2) for i, name in enumerate(QUICK)}
    return run(tmp_path_factory.mktemp("job"), bodies, 128, max_num_seqs=8)


@pytest.mark.parametrize("name", QUICK)
def test_answers_are_of_their_schemas(responses: dict[str, Any], name: str):
    (choice,) = responses[name]["body"]["choices"]
    assert choice["finish_reason"] == "stop"
    jsonschema.validate(json.loads(choice["text"]), SCHEMAS[name], format_checker=FORMAT)


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0, 1])
def test_all_fifty_schemas(tmp_path: Path, temperature: int):
    bodies = {
        name: of_schema(schema, temperature=temperature, max_tokens=1000)
        for name, schema in SCHEMAS.items()
    }
    cut = 0
    for name, response in run(tmp_path, bodies, 1024, max_num_seqs=16).items():
        (choice,) = response["body"]["choices"]
        if choice["finish_reason"] == "length":
            cut += 1
            continue
        jsonschema.validate(json.loads(choice["text"]), SCHEMAS[name], format_checker=FORMAT)
    assert cut <= 3  # a number may have digits without an end
