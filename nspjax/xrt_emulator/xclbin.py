"""xclbin files, by the public layout of XRT's xclbin.h: `axlf` header, section headers, sections.

Only what XRT reads in software emulation is written. The bitstream is a shared object with the
kernel; XRT passes it to the device process.
"""

from __future__ import annotations

import dataclasses
import hashlib
import struct
from collections.abc import Iterator
from xml.sax.saxutils import quoteattr

PLATFORM = "nspjax_emulated_smartssd"
BANK_BYTES = 4 << 30
"""memory of a SmartSSD's FPGA"""

_FIRST_UNIT_ADDRESS = 0x1400000
_UNIT_ADDRESS_RANGE = 0x10000
_FIRST_ARGUMENT_OFFSET = 0x10
_SCALAR_BYTES = {"int": 4, "unsigned": 4, "float": 4, "long": 8, "double": 8}

# enum axlf_section_kind
_BITSTREAM, _EMBEDDED_METADATA, _MEM_TOPOLOGY, _CONNECTIVITY, _IP_LAYOUT = 0, 2, 6, 7, 8

_HEADER_BYTES = 456
_SECTION_HEADER = struct.Struct("<I16s4xQQ")
_SW_EMU = 5  # enum XCLBIN_MODE
_XRT_VERSION = (466, 2, 13)  # patch, major, minor


@dataclasses.dataclass(frozen=True)
class Argument:
    """One argument of a kernel."""

    name: str
    c_type: str = "void*"

    @property
    def is_pointer(self) -> bool:
        return self.c_type.endswith("*")

    @property
    def size_bytes(self) -> int:
        return 8 if self.is_pointer else _SCALAR_BYTES[self.c_type]


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A kernel as its callers see it."""

    name: str
    arguments: tuple[Argument, ...]

    def offsets(self) -> list[int]:
        """Where each argument lies in the registers: Vitis HLS leaves 4 bytes after each."""
        offsets, offset = [], _FIRST_ARGUMENT_OFFSET
        for argument in self.arguments:
            offsets.append(offset)
            offset += argument.size_bytes + 4
        return offsets


ATTENTION = Kernel("nspjax_attention", (Argument("kv"), Argument("operands"), Argument("results")))
"""as hls_kernels/attention/interface.h has it"""


@dataclasses.dataclass(frozen=True)
class Xclbin:
    """What an xclbin has."""

    kernels: tuple[Kernel, ...] = (ATTENTION,)
    compute_units: int = 1
    """of each kernel, named KERNEL_1, KERNEL_2, …"""

    def units(self) -> Iterator[tuple[Kernel, str, int]]:
        """Kernel, name and address of each compute unit."""
        address = _FIRST_UNIT_ADDRESS
        for kernel in self.kernels:
            for number in range(1, self.compute_units + 1):
                yield kernel, f"{kernel.name}_{number}", address
                address += _UNIT_ADDRESS_RANGE

    def to_bytes(self, bitstream: bytes) -> bytes:
        """The file. The same input gives the same bytes."""
        return _axlf(
            [
                (_BITSTREAM, "bitstream", bitstream),
                (_EMBEDDED_METADATA, "metadata", self.xml().encode()),
                (_MEM_TOPOLOGY, "mem_topology", _mem_topology()),
                (_IP_LAYOUT, "ip_layout", self._ip_layout()),
                (_CONNECTIVITY, "connectivity", self._connectivity()),
            ]
        )

    def xml(self) -> str:
        """The metadata that Vitis embeds, as far as XRT and the device process read it."""
        kernels = "".join(self._kernel_xml(kernel) for kernel in self.kernels)
        return (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            '<project name="nspjax">\n'
            f'<platform vendor="nspjax" boardid="emulated" name="{PLATFORM}" featureRomTime="0">\n'
            '<version major="1" minor="0"/>\n'
            '<device name="fpga0" fpgaDevice="emulated" addrWidth="0">\n'
            '<core name="OCL_REGION_0" target="csim" type="clc_region" clockFreq="300MHz" '
            f'numComputeUnits="{len(list(self.units()))}">\n'
            '<kernelClocks><clock port="KERNEL_CLK" frequency="300.0MHz"/></kernelClocks>\n'
            f"{kernels}</core>\n</device>\n</platform>\n</project>\n"
        )

    def _kernel_xml(self, kernel: Kernel) -> str:
        ports = [
            '<port name="S_AXI_CONTROL" mode="slave" range="0x1000" dataWidth="32" '
            'portType="addressable" base="0x0"/>'
        ]
        arguments = []
        for number, (argument, offset) in enumerate(
            zip(kernel.arguments, kernel.offsets(), strict=True)
        ):
            port = f"M_AXI_GMEM{number}" if argument.is_pointer else "S_AXI_CONTROL"
            if argument.is_pointer:
                ports.append(
                    f'<port name="{port}" mode="master" range="0xFFFFFFFFFFFFFFFF" '
                    'dataWidth="512" portType="addressable" base="0x0"/>'
                )
            arguments.append(
                f"<arg name={quoteattr(argument.name)} "
                f'addressQualifier="{int(argument.is_pointer)}" id="{number}" port="{port}" '
                f'size="{argument.size_bytes:#x}" offset="{offset:#x}" hostOffset="0x0" '
                f'hostSize="{argument.size_bytes:#x}" type={quoteattr(argument.c_type)}/>'
            )
        instances = [
            f'<instance name="{name}"><addrRemap base="{address:#x}" port="S_AXI_CONTROL"/>'
            "</instance>"
            for of, name, address in self.units()
            if of is kernel
        ]
        head = (
            f'<kernel name="{kernel.name}" language="c" vlnv="nspjax:hls:{kernel.name}:1.0" '
            'attributes="" preferredWorkGroupSizeMultiple="0" workGroupSize="1" interrupt="true">'
            f'<module name="{kernel.name}"/>'
        )
        return "\n".join([head, *ports, *arguments, *instances, "</kernel>\n"])

    def _ip_layout(self) -> bytes:
        """struct ip_layout: kernels with AP_CTRL_HS and an interrupt."""
        units = list(self.units())
        text = struct.pack("<i4x", len(units))
        for number, (kernel, name, address) in enumerate(units):
            has_interrupt, ip_kernel = 1, 1
            properties = has_interrupt | number << 1
            text += struct.pack(
                "<IIQ64s", ip_kernel, properties, address, f"{kernel.name}:{name}".encode()
            )
        return text

    def _connectivity(self) -> bytes:
        """struct connectivity: every pointer argument of every unit to the one bank."""
        entries = [
            struct.pack("<iii", argument, unit, 0)
            for unit, (kernel, _, _) in enumerate(self.units())
            for argument, its in enumerate(kernel.arguments)
            if its.is_pointer
        ]
        return struct.pack("<i", len(entries)) + b"".join(entries)


def _mem_topology() -> bytes:
    """struct mem_topology: one used DDR4 bank at 0."""
    ddr4, used = 1, 1
    bank = struct.pack("<BB6xQQ16s", ddr4, used, BANK_BYTES // 1024, 0, b"bank0")
    return struct.pack("<i4x", 1) + bank


def _axlf(sections: list[tuple[int, str, bytes]]) -> bytes:
    """struct axlf with its sections, each at a multiple of 8 bytes."""
    body_offset = _aligned(_HEADER_BYTES + _SECTION_HEADER.size * len(sections))
    headers, body = b"", b""
    for kind, name, data in sections:
        body = body.ljust(_aligned(len(body)), b"\0")
        headers += _SECTION_HEADER.pack(kind, name.encode(), body_offset + len(body), len(data))
        body += data
    uuid = hashlib.md5(body, usedforsecurity=False).digest()
    begin = b"xclbin2\0" + struct.pack("<i", -1) + b"\xff" * 28 + b"\0" * 256 + struct.pack("<Q", 0)
    header = struct.pack(
        "<QQQHBBHH16s64s16s16sI4x",
        body_offset + len(body),
        0,  # time stamps: none, so that equal input gives equal files
        0,
        *_XRT_VERSION,
        _SW_EMU,
        0,
        b"",
        PLATFORM.encode(),
        uuid,
        b"",
        len(sections),
    )
    return (begin + header + headers).ljust(body_offset, b"\0") + body


def _aligned(n_bytes: int) -> int:
    return (n_bytes + 7) // 8 * 8
