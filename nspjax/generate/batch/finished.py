"""What earlier runs have finished, once it is sure that it belongs to this job."""

from __future__ import annotations

import collections
from collections.abc import Iterable

from nspjax.errors import BatchFileError
from nspjax.generate.batch.earlier_result import EarlierResult
from nspjax.generate.batch.fingerprint import Fingerprint
from nspjax.generate.batch.input import BatchInput
from nspjax.generate.batch.lines import shown
from nspjax.generate.batch.results import ID_PREFIX, MOST_MESSAGE, result_id
from nspjax.message_text import shortened


def finished_ids(
    earlier: Iterable[EarlierResult], batch: BatchInput, model: str, made_with: Fingerprint
) -> dict[str, bool]:
    """custom_id -> whether it was answered (False: an error line).

    An answer that has no fingerprint of ours counts as finished: nobody can tell what made it.

    Raises:
      BatchFileError: a result is not of this input, by this model and under these settings, or
        answers what another did.
    """
    done: dict[str, bool] = {}
    numbers: dict[str, dict[str, int]] = collections.defaultdict(dict)
    for found in earlier:
        custom_id = found.custom_id
        if custom_id in done:
            before = next(
                f"line {each[custom_id]}" + (f" of {output}" if output != found.output else "")
                for output, each in numbers.items()
                if custom_id in each
            )
            raise BatchFileError(f"{found.where} answers {shown(custom_id)}, as {before} did")
        _check_same_request(found, batch)
        _check_same_model(found, model)
        _check_same_settings(found, made_with)
        numbers[found.output][custom_id] = found.number
        done[custom_id] = found.result.get("error") is None
    return done


def _check_same_request(found: EarlierResult, batch: BatchInput) -> None:
    custom_id, result_name = found.custom_id, found.result.get("id")
    if custom_id not in batch.by_id:
        raise BatchFileError(
            f"{found.where} answers {shown(custom_id)}, which the input {batch.file} does not "
            f"have{batch.among}: "
            "is it the output of another input?"
        )
    entry = batch.by_id[custom_id]
    ours = isinstance(result_name, str) and result_name.startswith(ID_PREFIX)
    if ours and result_name != result_id(entry.digest):
        raise BatchFileError(
            f"{found.where} answers {shown(custom_id)} as it was before: {batch.file.unit} "
            f"{entry.number} of {batch.file} has changed since. Give the request another "
            "custom_id, delete its result line, or start again with --overwrite"
        )


def _check_same_model(found: EarlierResult, model: str) -> None:
    body = found.result["response"].get("body")
    answered_by = body.get("model", model) if isinstance(body, dict) else model
    if answered_by != model:
        raise BatchFileError(
            f"{found.where} was answered by {shown(answered_by)}, and this job's model is "
            f"{shown(model)}: choose another output, or --overwrite"
        )


def _check_same_settings(found: EarlierResult, made_with: Fingerprint) -> None:
    body = found.result["response"].get("body")
    before = Fingerprint.parse(body.get("system_fingerprint")) if isinstance(body, dict) else None
    changed = before.differences(made_with) if before else {}
    if changed:
        said = ", ".join(f"{name} was {old} and is {new}" for name, (old, new) in changed.items())
        raise BatchFileError(
            f"{found.where} was answered under other settings, under which answers may differ: "
            f"{shortened(said, MOST_MESSAGE)}. Resume with the same ones, choose another output, "
            "or --overwrite"
        )
