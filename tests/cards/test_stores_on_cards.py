"""What a store on emulated cards does besides attention: all presets, tiles that come and go."""

import json

from on_cards import run_on_cards

from nspjax.compiler.driver.presets import PRESETS


def test_every_preset_has_the_tokens_of_memory(tmp_path):
    """`baseline` brings K and V to the host, `half of the rows X` has a second file a card."""
    said = run_on_cards(["pipelines_child.py"], directory=tmp_path)
    found = {line.pop("pipeline"): line for line in map(json.loads, said.splitlines())}
    assert list(found) == [*PRESETS, "half of the rows X"]
    for name, line in found.items():
        assert line["error"] < 1e-4, name
        assert line["same_tokens"], name
        assert line["bytes_read"] > 0, name


def test_tiles_are_shared_fetched_saved_and_checked(tmp_path):
    run_on_cards(["moved_tiles_child.py", tmp_path], directory=tmp_path)


def test_stores_of_one_process_come_and_go(tmp_path):
    run_on_cards(["several_stores_child.py"], directory=tmp_path)
