"""The chain of handles of one cache through a block: who takes them, and which is the newest."""

from __future__ import annotations

from nspjax.compiler import mlir, nsp
from nspjax.compiler.nsp import Handle


def takes(op: mlir.Operation) -> bool:
    """Whether an operation uses handles up, and gives new ones."""
    kind = nsp.kind(op)
    return kind is not None and kind.gives_handle


def maker(handle: Handle) -> mlir.Operation | None:
    """The nsp operation that gave a handle; None if it came otherwise."""
    owner = handle[0].owner
    if isinstance(owner, mlir.Block) or not takes(owner.operation):
        return None
    return owner.operation


def taker(handle: Handle, block: mlir.Block) -> mlir.Operation | None:
    """The nsp operation of a block that uses a handle up; None if there is none."""
    for use in handle[0].uses:
        user = use.owner.operation
        if use.operand_number == 0 and takes(user) and user.block == block:
            return user
    return None


def next_change(handle: Handle, block: mlir.Block) -> mlir.Operation | None:
    """What makes a handle stale, in a block: an append, say. Reads leave it good."""
    user = taker(handle, block)
    while user is not None and (kind := nsp.kind(user)) and kind.effect is nsp.Effect.READS:
        user = taker(nsp.next_handle(user), block)
    return user


def root(op: mlir.Operation) -> mlir.Value:
    """The first handle, in its block, of the cache that an operation has: what names the cache."""
    handle = nsp.handle(op)
    while (made := maker(handle)) is not None and made.block == op.block:
        handle = nsp.handle(made)
    return handle[0]


def newest(op: mlir.Operation, anchor: mlir.Operation) -> Handle | None:
    """The newest handle, right before `anchor`, of the cache that `op` takes, in the same block.

    None: it is made after `anchor` by something that is not ours.
    """
    handle, block = nsp.handle(op), anchor.block
    while not _is_made_before(handle, anchor):
        made = maker(handle)
        if made is None:
            return None
        handle = nsp.handle(made)
    user = taker(handle, block)
    while user is not None and user != anchor and user.is_before_in_block(anchor):
        handle = nsp.next_handle(user)
        user = taker(handle, block)
    return handle


def _is_made_before(handle: Handle, anchor: mlir.Operation) -> bool:
    owner = handle[0].owner
    if isinstance(owner, mlir.Block) or owner.operation.block != anchor.block:
        return True
    return owner.operation.is_before_in_block(anchor)
