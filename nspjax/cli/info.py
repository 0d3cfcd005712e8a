"""`nspjax info`: what is installed, what this machine has, and how its stores' drives are read."""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING, Any

from nspjax.byte_size import format_bytes
from nspjax.cli.cards import InstalledCard, StoreCard, installed_cards
from nspjax.cli.exit_code import ExitCode
from nspjax.cli.machine import EngineInfo, MachineInfo, engine_info, machine_info, versions
from nspjax.cli.store_info import StoreInfo, store_info
from nspjax.errors import NspjaxError
from nspjax.message_text import printable

if TYPE_CHECKING:
    from rich.table import Table


@dataclasses.dataclass(frozen=True)
class ShowInfo:
    """What was asked on the command line."""

    stores: tuple[str, ...] = ()
    probe: bool = False
    """measure the drives, whatever is kept"""
    json: bool = False


@dataclasses.dataclass(frozen=True)
class Info:
    """All that is shown; with --json its fields are the keys."""

    versions: dict[str, str | None]
    engine: EngineInfo
    machine: MachineInfo
    cards: list[InstalledCard] | None
    """None: pyxrt is not installed"""
    stores: list[StoreInfo]


def execute(options: ShowInfo) -> int:
    """Show it on stdout. Returns the exit code."""
    try:
        info = gather(options)
    except NspjaxError as error:
        print(f"error: {error}", file=sys.stderr)
        return ExitCode.REFUSED
    if options.json:
        import orjson

        print(orjson.dumps(_printable(info), option=orjson.OPT_INDENT_2).decode())
    else:
        from rich.console import Console

        console = Console(highlight=False)
        for table in tables(_printable(info)):
            console.print(table)
    return ExitCode.DONE


def _printable(info: Info) -> Info:
    """With paths as text, whatever bytes they have."""
    stores = []
    for store in info.stores:
        texts: dict[str, Any] = {
            field.name: printable(value)
            for field in dataclasses.fields(store)
            if isinstance(value := getattr(store, field.name), str)
        }
        if store.card is not None:
            texts["card"] = dataclasses.replace(store.card, xclbin=printable(store.card.xclbin))
        stores.append(dataclasses.replace(store, **texts))
    return dataclasses.replace(info, stores=stores)


def gather(options: ShowInfo) -> Info:
    """Raises StorePathError for a store that is no directory, AcceleratorError for a card."""
    from nspjax import _engine

    return Info(
        versions(),
        engine_info(),
        machine_info(),
        installed_cards(),
        [
            store_info(spec, measure=options.probe)
            for spec in _engine.expand_cards(list(options.stores))
        ],
    )


def tables(info: Info) -> list[Table]:
    """One for the software, one for the machine, one for each store."""
    engine, machine = info.engine, info.machine
    software = {name: version or "not installed" for name, version in info.versions.items()}
    software |= {
        "compiler": f"{engine.compiler} built the engine",
        "FFI": f"minor version {engine.ffi_api_minor_version}",
        "io_uring": "built in" if engine.io_uring else "not built in: reads use threads",
        "kernels": ", ".join(engine.kernels) + " (best first)",
        "cards": "through XRT" if engine.xrt else "not built in: no XRT when nspjax was installed",
    }
    hardware = {
        "CPU": machine.cpu,
        "cores": str(machine.cores),
        "memory": f"{format_bytes(machine.memory_bytes)}, "
        f"{format_bytes(machine.available_memory_bytes)} available",
        "cards": _cards_text(info.cards),
    }
    return [
        _table("software", software),
        _table("machine", hardware),
        *(_table(f"store {store.spec}", _store_rows(store)) for store in info.stores),
    ]


def _cards_text(cards: list[InstalledCard] | None) -> str:
    if cards is None:
        return "not known: XRT's pyxrt is not installed"
    return ", ".join(_card_text(card) for card in cards) or "none"


def _card_text(card: InstalledCard) -> str:
    return f"{card.index}: {card.name}" + (f" at {card.address}" if card.address else "")


def _card_rows(card: StoreCard) -> dict[str, str]:
    units = f"{card.compute_units} compute unit{'s' if card.compute_units > 1 else ''}"
    return {
        "card": f"{card.index}: {card.platform} at {card.address or 'no known PCI address'}",
        "xclbin": card.xclbin,
        "kernel": f"{card.kernel}, {units}; a run may take {card.timeout_s:g} s",
    }


def _store_rows(store: StoreInfo) -> dict[str, str]:
    rows = {"free": format_bytes(store.free_bytes)}
    if store.kind == "memory":
        return rows
    o_direct = {True: "yes", False: "no: through the page cache", None: "not known"}
    return (_card_rows(store.card) if store.card else {}) | {
        "file system": f"{store.file_system} at {store.mount_point}",
        "O_DIRECT": o_direct[store.o_direct],
        **rows,
        "profile": _profile_text(store.profile),
    }


def _profile_text(profile: dict[str, Any] | None) -> str:
    if profile is None:
        return "none kept; --probe measures one"
    text = f"{format_bytes(profile['block_bytes'])} blocks, {profile['depth']} at a time"
    if profile["read_gb_per_s"] is None:
        text += ": how fast it reads and writes is not known"
    else:
        text += (
            f": reads {profile['read_gb_per_s']:.2f} GB/s, "
            f"writes {profile['write_gb_per_s']:.2f} GB/s"
        )
    return f"{text} ({profile['source']}" + (f"; {profile['note']})" if profile["note"] else ")")


def _table(title: str, rows: dict[str, str]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=Text(title, style="bold"), title_justify="left", show_header=False, box=None
    )
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(Text(name), Text(value))  # Text: no markup in a path
    return table
