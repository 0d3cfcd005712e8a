"""Print a batch job's answers under the ends of their prompts.

python examples/show_answers.py examples/prompts.jsonl answers.jsonl
"""

import json
import sys
from pathlib import Path

PROMPT_LINES = 6


def json_lines(path: str) -> list[dict]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def main(prompts: str, answers: str) -> None:
    asked = {line["custom_id"]: line["body"] for line in json_lines(prompts)}
    for line in json_lines(answers):
        body, result = asked[line["custom_id"]], line["response"]["body"]
        prompt = body.get("prompt") or body["messages"][-1]["content"]
        lines = prompt.splitlines(keepends=True)
        print(f"\n──── {line['custom_id']} " + "─" * (70 - len(line["custom_id"])))
        if len(lines) > PROMPT_LINES:
            print(f"… {len(lines) - PROMPT_LINES} lines before")
        print("".join(lines[-PROMPT_LINES:]), end="")
        for choice in result.get("choices", []):
            text = choice.get("text") or choice["message"]["content"]
            print(f"\033[32m{text}\033[0m" if sys.stdout.isatty() else f"▶{text}")
        if line.get("error"):
            print(f"error: {line['error']['message']}")


if __name__ == "__main__":
    main(*sys.argv[1:])
