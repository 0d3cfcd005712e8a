"""A saved prefix taken apart and put together again."""

import struct

from nspjax.runtime.prefix_file import HEADER_FRAME, MAGIC

LENGTHS = (333, 200, 57)


def split(data: bytes) -> tuple[dict, bytes]:
    import orjson

    begin = len(MAGIC) + HEADER_FRAME.size
    end = begin + HEADER_FRAME.unpack_from(data, len(MAGIC))[0]
    return orjson.loads(data[begin:end]), data[end:]


def joined(header: dict, rest: bytes) -> bytes:
    import orjson

    from nspjax import _engine

    text = orjson.dumps(header)
    checksum = _engine.crc32c(struct.pack("<I", len(text)) + text)
    return MAGIC + HEADER_FRAME.pack(len(text), checksum) + text + rest
