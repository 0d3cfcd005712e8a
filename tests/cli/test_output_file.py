"""Files that a command is told to write: refused before anything is done for them."""

import os
import tempfile
from pathlib import Path

import pytest

from nspjax.cli.output_file import check_output
from nspjax.errors import InvalidArgumentError

NOBODY = 65534


@pytest.fixture
def read_only_folder():
    """One with a file in it, neither of which this user may write: root is nobody meanwhile."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    (folder / "there").write_text("x")
    (folder / "there").chmod(0o444)
    folder.chmod(0o555)
    was = os.geteuid()
    if was == 0:
        os.seteuid(NOBODY)
    yield folder
    os.seteuid(was)
    folder.chmod(0o755)
    (folder / "there").unlink()
    folder.rmdir()


@pytest.mark.parametrize("name", ["new", "there"])
def test_what_this_user_may_not_write(read_only_folder: Path, name: str):
    with pytest.raises(InvalidArgumentError, match=f"--trace .*/{name} cannot be written by this"):
        check_output("--trace", str(read_only_folder / name))


def test_no_name_at_all():
    with pytest.raises(InvalidArgumentError, match="--trace is empty: give a file to write"):
        check_output("--trace", "")


def test_what_can_be_written(tmp_path: Path):
    (tmp_path / "there").touch()
    (tmp_path / "link").symlink_to("there")
    for name in ("new", "there", "link"):
        check_output("-o", str(tmp_path / name))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "there"]
