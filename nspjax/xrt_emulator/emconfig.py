"""emconfig.json: which devices XRT's software emulation has."""

from __future__ import annotations

import json

from nspjax.xrt_emulator.xclbin import BANK_BYTES, PLATFORM


def emconfig(cards: int) -> str:
    """The file's text for so many equal cards."""
    device = {
        "Name": PLATFORM,
        "HalMajorVersion": "0",
        "HalMinorVersion": "1",
        "VendorId": "4334",
        "SubsystemVendorId": "0",
        "DeviceVersion": "0",
        "DataAlignment": "4096",
        "DdrBanks": [{"Name": "bank0", "Size": f"{BANK_BYTES >> 30}GB"}],
        "OclFreqency": "300",  # XRT's spelling
        "NumDevices": "1",
        "FeatureRom": {"Major_Version": "10", "Minor_Version": "1"},
    }
    return json.dumps(
        {
            "Version": {"FileVersion": "2.0", "ToolVersion": "2022.1"},
            "Platform": {"Boards": [{"NumBoards": str(cards), "Devices": [device]}]},
        },
        indent=1,
    )
