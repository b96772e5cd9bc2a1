"""The place of a pack: kept while another is made, put back after a fault, never shared with other files."""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from isopatch.data import pack_folder
from isopatch.data.open import open_data
from isopatch.data.pack_files import ShardWriter
from isopatch.data.packing import pack_data
from isopatch.errors import IsopatchError, UsageError


@pytest.fixture
def tree(tmp_path):
    for name in "ab":
        (tmp_path / "photos" / name).mkdir(parents=True)
        for index in range(4):
            Image.new("RGB", (20, 30), (index, 9, 0)).save(tmp_path / "photos" / name / f"{index}.png")
    return tmp_path / "photos"


@pytest.fixture
def pack(tree, tmp_path):
    pack_data(tree, tmp_path / "pack")
    return tmp_path / "pack"


def size(pack):
    """The shorter side of the pictures in a pack: which of two packs it is."""
    return min(open_data(pack, val_fraction=0, test_fraction=0).train.read(0).size)


def beside(pack):
    return sorted(path.name for path in pack.parent.iterdir())


def dead_process():
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def left_by(pid, pack, what):
    """A folder as a packing of `pack` by this process of this machine has it."""
    return pack.with_name(f".{pack.name}.{what}-{pack_folder._here()}-{pid}")


# --- replacing ------------------------------------------------------------------------------------------


def test_a_packing_killed_between_its_two_renames_loses_nothing(tree, pack, caplog):
    script = (
        "import time\n"
        "from pathlib import Path\n"
        "from isopatch.data.packing import pack_data\n"
        "real = Path.rename\n"
        "def slow(self, to):\n"
        "    real(self, to)\n"
        "    print(to, flush=True)\n"
        "    time.sleep(60)\n"
        "Path.rename = slow\n"
        f"pack_data({str(tree)!r}, {str(pack)!r}, short_side=8, overwrite=True)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=environment)
    former = Path(child.stdout.readline().decode().strip())
    with caplog.at_level(logging.WARNING, "isopatch"):
        pack_folder.clear_up(pack)  # the control: it is running, so nothing is its heir's
    assert former == left_by(child.pid, pack, "former") and former.is_dir() and not pack.exists()
    assert str(former) in caplog.text
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert not pack.exists() and len(beside(pack)) == 3
    with pytest.raises(UsageError, match="there is a pack already"):  # brought back, so not replaced unasked
        pack_data(tree, pack, short_side=4)
    assert size(pack) == 20 and beside(pack) == ["pack", "photos"]
    assert "brought back the pack" in caplog.text
    pack_data(tree, pack, short_side=4, overwrite=True)
    assert size(pack) == 4 and beside(pack) == ["pack", "photos"]


@pytest.mark.parametrize("fault", [OSError(errno.EIO, os.strerror(errno.EIO)), KeyboardInterrupt()])
def test_a_fault_in_the_second_rename_puts_the_former_pack_back(tree, pack, monkeypatch, fault):
    real = Path.rename

    def faulty(self, target):
        if ".packing-" in self.name:
            raise fault
        return real(self, target)

    monkeypatch.setattr(Path, "rename", faulty)
    with pytest.raises((IsopatchError, KeyboardInterrupt)) as error:
        pack_data(tree, pack, short_side=8, overwrite=True)
    if isinstance(fault, OSError):
        assert "packing failed: Input/output error" in str(error.value) and "\n" not in str(error.value)
    assert size(pack) == 20 and beside(pack) == ["pack", "photos"]


def test_where_it_cannot_be_put_back_the_line_says_where_it_is(tree, pack, monkeypatch):
    real = Path.rename

    def in_the_way(self, target):
        result = real(self, target)
        if ".former-" in Path(target).name:
            pack.write_text("another program was faster")
        return result

    monkeypatch.setattr(Path, "rename", in_the_way)
    former = left_by(os.getpid(), pack, "former")
    with pytest.raises(IsopatchError, match="rename it yourself") as error:
        pack_data(tree, pack, short_side=8, overwrite=True)
    assert str(former) in str(error.value) and "\n" not in str(error.value)
    assert size(former) == 20 and beside(pack) == [former.name, "pack", "photos"]


def test_a_place_that_was_taken_meanwhile_is_left_alone(tree, tmp_path, monkeypatch):
    real = ShardWriter.add
    taken = tmp_path / "pack"

    def slow(self, picture):
        real(self, picture)
        taken.mkdir(exist_ok=True)
        (taken / "thesis.txt").write_text("words")

    monkeypatch.setattr(ShardWriter, "add", slow)
    with pytest.raises(UsageError, match="exists and is not a pack"):
        pack_data(tree, taken)
    assert (taken / "thesis.txt").read_text() == "words" and beside(taken) == ["pack", "photos"]


# --- what was left --------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["packing", "former"])
def test_only_what_this_machines_dead_processes_left_is_removed(tree, pack, what):
    running = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    dead = dead_process()
    here = pack_folder._here()
    kept = [
        left_by(running.pid, pack, what),
        pack.with_name(f".pack.{what}-elsewhere_{here.rpartition('_')[2]}-{dead}"),  # another host
        pack.with_name(f".pack.{what}-{here}9-{dead}"),  # another container of this host
        pack.with_name(f".pack.{what}-{dead}"),  # an older version's, which does not say whose
        pack.with_name(f".pack2.{what}-{here}-{dead}"),  # another pack's
    ]
    gone = left_by(dead, pack, what)
    for folder in (*kept, gone):
        folder.mkdir()
        (folder / "train-00000.bin").write_bytes(b"pixels")
    try:
        pack_data(tree, pack, overwrite=True)
        assert not gone.exists()
        for folder in kept:
            assert (folder / "train-00000.bin").is_file(), folder
    finally:
        running.communicate()
    pack_data(tree, pack, overwrite=True)  # the control: now that process is gone too
    assert [folder.exists() for folder in kept] == [False, True, True, True, True]


def test_a_pack_moved_away_elsewhere_is_not_brought_back_but_named(tree, pack, caplog):
    former = pack.with_name(f".pack.former-elsewhere_1-{dead_process()}")
    pack.rename(former)
    with caplog.at_level(logging.WARNING, "isopatch"):
        pack_data(tree, pack, short_side=8)
    assert size(pack) == 8 and size(former) == 20
    assert str(former) in caplog.text and "rename it back" in caplog.text


def test_the_folders_name_the_host(tree, tmp_path, monkeypatch):
    names = []
    real = ShardWriter.add

    def looking(self, picture):
        real(self, picture)
        names.append(self.folder.name)

    monkeypatch.setattr(ShardWriter, "add", looking)
    monkeypatch.setattr(socket, "gethostname", lambda: "node-7.lab")
    pack_data(tree, tmp_path / "pack")
    assert names[0].startswith(".pack.packing-node_7.lab") and names[0].endswith(f"-{os.getpid()}")


# --- what is not the pack's -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["thesis.txt", "train-00000.bin.bak", "more/", "test.npz/", "val-00000.bin@"]
)
def test_overwriting_removes_nothing_that_is_not_the_packs(tree, pack, name):
    stranger = pack / name.rstrip("/@")
    if name.endswith("/"):
        stranger.mkdir()
    elif name.endswith("@"):
        stranger.symlink_to(tree)
    else:
        stranger.write_text("words")
    with pytest.raises(UsageError, match=f"remove {stranger.name}, which is no part of the pack") as error:
        pack_data(tree, pack, short_side=8, overwrite=True)
    assert str(pack) in str(error.value) and "\n" not in str(error.value)
    assert os.path.lexists(stranger) and size(pack) == 20
    stranger.rmdir() if name.endswith("/") else stranger.unlink()
    pack_data(tree, pack, short_side=8, overwrite=True)  # the control
    assert size(pack) == 8


def test_a_file_put_into_the_pack_while_another_is_made_is_kept(tree, pack, monkeypatch):
    real = ShardWriter.add

    def slow(self, picture):
        real(self, picture)
        (pack / "thesis.txt").write_text("words")

    monkeypatch.setattr(ShardWriter, "add", slow)
    with pytest.raises(UsageError, match=r"thesis\.txt, which is no part of the pack"):
        pack_data(tree, pack, short_side=8, overwrite=True)
    assert (pack / "thesis.txt").read_text() == "words" and size(pack) == 20
    assert beside(pack) == ["pack", "photos"]


def test_a_link_to_a_pack_is_not_replaced(tree, pack, tmp_path):
    (tmp_path / "link").symlink_to(pack)
    with pytest.raises(UsageError, match=f"a link to a pack; give the folder itself, {pack}"):
        pack_data(tree, tmp_path / "link", overwrite=True)
    assert (tmp_path / "link").is_symlink() and size(tmp_path / "link") == 20


def test_a_damaged_pack_can_be_replaced(tree, pack):
    (pack / "pack.json").write_text("{")
    pack_data(tree, pack, overwrite=True)
    assert size(pack) == 20
