"""The xclbin and emconfig.json that are written, read back by their public layouts."""

from __future__ import annotations

import json
import struct
from xml.etree import ElementTree

import pytest

from nspjax.errors import InvalidArgumentError
from nspjax.xrt_emulator import ATTENTION, EmulatedCards, Fault, Xclbin, parse_fault
from nspjax.xrt_emulator.emconfig import emconfig


def sections(data: bytes) -> dict[int, bytes]:
    """Of a struct axlf, by kind; checks the header on the way."""
    assert data[:8] == b"xclbin2\0"
    (length,) = struct.unpack_from("<Q", data, 304)
    assert length == len(data)
    mode, count = struct.unpack_from("<H", data, 332)[0], struct.unpack_from("<I", data, 448)[0]
    assert mode == 5, "XCLBIN_SW_EMU"
    found = {}
    for i in range(count):
        kind, _, offset, size = struct.unpack_from("<I16s4xQQ", data, 456 + 40 * i)
        assert offset % 8 == 0
        assert offset + size <= len(data)
        found[kind] = data[offset : offset + size]
    return found


def test_sections_of_an_xclbin():
    bitstream = bytes(range(101))
    data = Xclbin(compute_units=3).to_bytes(bitstream)
    assert data == Xclbin(compute_units=3).to_bytes(bitstream), "the same each time"
    of = sections(data)
    assert of[0] == bitstream

    (n_banks,) = struct.unpack_from("<i", of[6])
    kind, used, size_kb, base, tag = struct.unpack_from("<BB6xQQ16s", of[6], 8)
    assert (n_banks, kind, used, size_kb, base) == (1, 1, 1, 4 << 20, 0)
    assert tag.rstrip(b"\0") == b"bank0"

    (n_units,) = struct.unpack_from("<i", of[8])
    units = [struct.unpack_from("<IIQ64s", of[8], 8 + 80 * i) for i in range(n_units)]
    assert [unit[3].rstrip(b"\0").decode() for unit in units] == [
        f"nspjax_attention:nspjax_attention_{i}" for i in (1, 2, 3)
    ]
    assert len({unit[2] for unit in units}) == 3

    (n_connections,) = struct.unpack_from("<i", of[7])
    connections = {struct.unpack_from("<iii", of[7], 4 + 12 * i) for i in range(n_connections)}
    assert connections == {(argument, unit, 0) for argument in range(3) for unit in range(3)}


def test_metadata_of_an_xclbin():
    xml = ElementTree.fromstring(sections(Xclbin(compute_units=2).to_bytes(b""))[2])
    (kernel,) = xml.iter("kernel")
    assert kernel.get("name") == ATTENTION.name == "nspjax_attention"
    arguments = [(a.get("name"), int(a.get("offset", ""), 0)) for a in kernel.iter("arg")]
    assert arguments == [("kv", 0x10), ("operands", 0x1C), ("results", 0x28)]
    assert [i.get("name") for i in kernel.iter("instance")] == [
        "nspjax_attention_1",
        "nspjax_attention_2",
    ]


def test_faults_of_an_xclbin():
    def xclbin(*faults: str) -> bytes:
        return EmulatedCards(faults=tuple(parse_fault(f, 1) for f in faults)).xclbin(b"x" * 4096)

    good = xclbin()
    assert xclbin("no-p2p") == good
    assert xclbin("xclbin=truncated") == good[: len(good) // 2]
    assert b'name="other_nspjax_attention"' in sections(xclbin("xclbin=kernel-name"))[2]
    assert b'<arg name="n_tiles"' in sections(xclbin("xclbin=arguments"))[2]


def test_emconfig():
    (board,) = json.loads(emconfig(5))["Platform"]["Boards"]
    assert board["NumBoards"] == "5"
    assert board["Devices"][0]["DdrBanks"] == [{"Name": "bank0", "Size": "4GB"}]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("die", Fault("die")),
        ("die:after=3", Fault("die", 3)),
        ("die-in-run:card=1:after=2", Fault("die-in-run", 2, 1)),
        ("hang:after=7:card=0", Fault("hang", 7, 0)),
        ("no-p2p", Fault("no-p2p")),
        ("xclbin=arguments", Fault("xclbin", xclbin="arguments")),
    ],
)
def test_faults_as_text(text, fault):
    assert parse_fault(text, 2) == fault
    assert parse_fault(str(fault), 2) == fault


@pytest.mark.parametrize("text", ["", "die:", "die:after", "die:after=-1", "no-p2p:card=0", "Die"])
def test_no_faults(text):
    with pytest.raises(InvalidArgumentError, match="fault"):
        parse_fault(text, 2)
