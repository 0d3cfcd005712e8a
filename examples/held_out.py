"""What the example model is measured on: the standard library's files that training never sees.

train, held_out = read_library()
bits, by_position = bits_per_byte(model, held_out)
"""

import math
from itertools import pairwise

import torch
from byte_tokenizer import BOS
from library_files import read_library
from torch import Tensor
from torch.nn import functional as F

__all__ = ["bits_per_byte", "losses", "read_library"]
BUCKETS = (0, 256, 1024, 2048, 4096)


def losses(model: torch.nn.Module, tokens: Tensor, amp: bool = False) -> Tensor:
    """Negative log-likelihood, in nats, of every token but the first: [batch, length - 1]."""
    with torch.autocast("cpu", torch.bfloat16, enabled=amp):
        logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
    return F.cross_entropy(logits.float().transpose(1, 2), tokens[:, 1:], reduction="none")


@torch.no_grad()
def bits_per_byte(
    model: torch.nn.Module, files: list[bytes], context: int = 4096, most: int = 10**9
) -> tuple[float, dict[str, float]]:
    """Bits per byte, in all and by position, of at most that many windows, each behind a BOS."""
    width = context - 1
    pieces = [text[i : i + width] for text in files for i in range(0, len(text), width)]
    model.eval()
    total, count = torch.zeros(context), torch.zeros(context)
    for piece in pieces[:: max(1, len(pieces) // most)]:
        nats = losses(model, torch.tensor([[BOS, *piece]]))[0]
        total[: len(nats)] += nats
        count[: len(nats)] += 1
    model.train()
    total /= math.log(2)
    by_position = {
        f"{low}-{high}": float(total[low:high].sum() / count[low:high].sum())
        for low, high in pairwise(BUCKETS)
        if count[low:high].sum() > 0
    }
    return float(total.sum() / count.sum()), by_position
