"""Whether a directory is on the drive of a card, from a tree like /sys."""

import os

import pytest

from nspjax import _engine

ROOT = "devices/pci0000:3a/0000:3a:00.0"
CARD = "0000:3d:00.0"


def sysfs(root, directory, *, drive, card=f"{ROOT}/0000:3b:00.0/0000:3c:01.0/{CARD}"):
    """The directory's file system is on `drive`, the card at its place."""
    number = os.stat(directory).st_dev
    for where, link in (
        (f"{drive}/nvme/nvme0/nvme0n1", f"dev/block/{os.major(number)}:{os.minor(number)}"),
        (card, f"bus/pci/devices/{CARD}"),
    ):
        (root / where).mkdir(parents=True)
        (root / link).parent.mkdir(parents=True)
        (root / link).symlink_to(root / where)
    return str(root)


@pytest.mark.parametrize(
    ("drive", "same"),
    [
        (f"{ROOT}/0000:3b:00.0/0000:3c:00.0/0000:3e:00.0", True),
        ("devices/pci0000:3a/0000:3a:01.0/0000:4b:00.0/0000:4c:00.0/0000:4e:00.0", False),
        ("devices/pci0000:00/0000:00:1d.0/0000:02:00.0", False),  # in a slot of its own
    ],
)
def test_where_the_drive_is(tmp_path, drive, same):
    assert (
        _engine.on_same_switch(sysfs(tmp_path, tmp_path, drive=drive), str(tmp_path), CARD) is same
    )


def test_a_card_in_a_slot_of_its_own(tmp_path):
    drive = f"{ROOT}/0000:3b:00.0/0000:3c:00.0/0000:3e:00.0"
    tree = sysfs(tmp_path, tmp_path, drive=drive, card=f"devices/pci0000:5a/0000:5a:00.0/{CARD}")
    assert _engine.on_same_switch(tree, str(tmp_path), CARD) is False


@pytest.mark.parametrize("missing", ["dev", "bus"])
def test_what_cannot_be_told(tmp_path, missing):
    drive = f"{ROOT}/0000:3b:00.0/0000:3c:00.0/0000:3e:00.0"
    tree = sysfs(tmp_path, tmp_path, drive=drive)
    (tmp_path / missing).rename(tmp_path / "away")
    assert _engine.on_same_switch(tree, str(tmp_path), CARD) is None


def test_no_address_is_known():
    assert _engine.on_same_switch("/sys", "/", "") is None
