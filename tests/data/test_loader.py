import hashlib
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
import torch
from PIL import Image

from isopatch.data.augment import TrainTransform
from isopatch.data.loader import TrainLoader, eval_batches
from isopatch.data.sampler import EpochSampler
from isopatch.data.workers import load_in_order, shared_places
from isopatch.errors import IsopatchError, UsageError
from isopatch.image.contract import InputContract
from isopatch.image.decode import DecodeError
from isopatch.image.prepare import prepare
from isopatch.training.config import AugmentConfig

CONTRACT = InputContract(height=16, width=16)
needs_fork = pytest.mark.skipif(sys.platform != "linux", reason="worker processes are forked on Linux only")


class Pictures:
    """A source of noise pictures of different sizes."""

    classes = ("a", "b", "c")
    fingerprint = "f00"

    def __init__(self, count=40, bad=(), same=False):
        rng = np.random.default_rng(0)
        sizes = [(256, 256)] if same else [(20, 31), (16, 16), (40, 18)]
        self.arrays = [
            rng.integers(0, 256, (*sizes[i % len(sizes)], 3), dtype=np.uint8) for i in range(count)
        ]
        if same:
            self.arrays = self.arrays[:1] * count
        self.labels = np.arange(count, dtype=np.int64) % 3
        self.bad = bad

    def __len__(self):
        return len(self.arrays)

    def name(self, index):
        return f"picture-{index}"

    def read(self, index):
        if index in self.bad:
            raise DecodeError(self.name(index), "damaged")
        return Image.fromarray(self.arrays[index])


def loader(source, *, workers=0, start=0, stop=12, batch=8, repeats=1, data_seed=3, **augment):
    transform = TrainTransform(AugmentConfig(**augment), CONTRACT)
    sampler = EpochSampler(len(source), global_batch=batch, data_seed=data_seed, repeats=repeats)
    return TrainLoader(
        source, transform, sampler, workers=workers, data_seed=data_seed, start=start, stop=stop
    )


def digests(batches):
    """One hash per batch over everything in it."""
    result = []
    for batch in batches:
        state = hashlib.sha256()
        for part in (batch.images, batch.labels, batch.indices):
            state.update(part.numpy().tobytes())
        state.update(f"{batch.epoch} {batch.step}".encode())
        result.append(state.hexdigest())
    return result


def global_states():
    _, keys, position, *rest = np.random.get_state()
    return random.getstate(), (keys.tolist(), position, *rest), torch.get_rng_state().tolist()


def children():
    return [child for child in multiprocessing.active_children() if child.is_alive()]


@needs_fork
@pytest.mark.parametrize("repeats", [1, 3])
def test_workers_do_not_change_a_bit(repeats):
    source = Pictures()
    reference = digests(loader(source, repeats=repeats))
    assert len(set(reference)) == 12
    for workers in (1, 2):
        with loader(source, workers=workers, repeats=repeats) as batches:
            assert digests(batches) == reference


@needs_fork
@pytest.mark.parametrize("workers", [0, 2])
def test_starting_in_the_middle_gives_the_rest(workers):
    source = Pictures()
    whole = digests(loader(source))
    for start in (1, 5, 7, 11):
        with loader(source, workers=workers, start=start) as batches:
            assert digests(batches) == whole[start:]
    assert digests(loader(source, start=12)) == []


def test_iterating_again_begins_again():
    batches = loader(Pictures())
    assert digests(batches) == digests(batches)


def test_a_batch_says_what_it_holds():
    source = Pictures()
    batches = list(loader(source, stop=12, crop="none", flip=0))
    assert [batch.step for batch in batches] == list(range(12))
    assert [batch.epoch for batch in batches] == [0] * 5 + [1] * 5 + [2] * 2
    for batch in batches:
        assert batch.images.shape == (8, 3, 16, 16)
        assert batch.labels.dtype == batch.indices.dtype == torch.int64
        np.testing.assert_array_equal(batch.labels, source.labels[batch.indices.numpy()])
        for image, index in zip(batch.images, batch.indices.tolist(), strict=True):
            assert torch.equal(image, prepare(source.read(index), CONTRACT))
    assert sorted(torch.cat([batch.indices for batch in batches[:5]]).tolist()) == list(range(40))


@needs_fork
@pytest.mark.parametrize("workers", [0, 2])
def test_no_two_samples_are_augmented_alike(workers):
    """Over workers, epochs and copies; on one and the same picture equal samples mean equal parameters."""
    source = Pictures(same=True)
    with loader(source, workers=workers, stop=15, repeats=2) as batches:
        samples = [image.numpy().tobytes() for batch in batches for image in batch.images]
    assert len(set(samples)) == len(samples) == 120


def test_the_data_seed_decides_order_and_augmentation():
    source = Pictures()
    assert not set(digests(loader(source, data_seed=3))) & set(digests(loader(source, data_seed=4)))


@needs_fork
@pytest.mark.parametrize("workers", [0, 2])
def test_the_global_generators_are_left_alone(workers):
    before = global_states()
    with loader(Pictures(), workers=workers) as batches:
        list(batches)
    list(eval_batches(Pictures(), CONTRACT, batch_size=7, workers=workers))
    assert global_states() == before


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(UsageError, match="at most 40"):
        loader(Pictures(), batch=64)


@needs_fork
@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_picture_is_named_in_its_turn(workers):
    source = Pictures()
    bad = int(EpochSampler(40, global_batch=8, data_seed=3).batch(0, 3).indices[5])
    source.bad = {bad}
    seen = []
    with pytest.raises(DecodeError) as caught, loader(source, workers=workers) as batches:
        for batch in batches:
            seen.append(batch.step)
    assert seen == [0, 1, 2]
    assert (caught.value.name, caught.value.reason) == (f"picture-{bad}", "damaged")
    assert str(caught.value) == f"picture-{bad}: damaged"
    assert not children()


class OddError(IsopatchError):
    def __init__(self, first, second, *, third):
        super().__init__(f"{first} {second}")
        self.third = third


@needs_fork
def test_an_error_with_any_constructor_crosses_the_process_border():
    def load(number):
        raise OddError("a", number, third=[1, 2])

    with pytest.raises(OddError, match=r"^a 0$") as caught:
        list(load_in_order(load, range(3), workers=2))
    assert caught.value.third == [1, 2]


@needs_fork
@pytest.mark.parametrize("kind", [IndexError, RuntimeError, OSError])
def test_a_defect_in_our_own_code_keeps_its_type_and_place(kind):
    def load(number):
        raise kind("the defect")

    with pytest.raises(kind, match="the defect") as caught:
        list(load_in_order(load, range(3), workers=2))
    assert not isinstance(caught.value, IsopatchError)
    assert "test_loader.py" in str(caught.value)
    assert not children()


@needs_fork
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_killed_worker_is_one_clear_error(number):
    started = time.monotonic()
    with pytest.raises(IsopatchError) as caught, loader(Pictures(), workers=2, stop=10**6) as batches:
        for batch in batches:
            if batch.step == 3:
                os.kill(children()[0].pid, number)
    assert time.monotonic() - started < 30
    assert not isinstance(caught.value, UsageError)
    for word in (number.name, "pid", "memory", "data.workers 0"):
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not children()


@needs_fork
def test_a_worker_that_dies_does_not_interrupt_other_work():
    """DataLoader's own handler would raise here, wherever the main thread is."""
    handler = signal.getsignal(signal.SIGCHLD)
    with loader(Pictures(), workers=2, stop=10**6) as batches:
        next(iter(batches))
        assert signal.getsignal(signal.SIGCHLD) == handler
        os.kill(children()[0].pid, signal.SIGKILL)
        deadline = time.monotonic() + 5
        while len(children()) == 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(children()) == 1


@needs_fork
def test_full_shared_memory_slows_down_but_neither_fails_nor_hangs(monkeypatch, caplog):
    def no_room(tensor):
        raise RuntimeError("unable to allocate shared memory(shm): No space left on device")

    source = Pictures()
    reference = [batch.images for batch in eval_batches(source, CONTRACT, batch_size=8)]
    monkeypatch.setattr(torch.Tensor, "share_memory_", no_room)  # the workers, forked, inherit it
    batches = list(eval_batches(source, CONTRACT, batch_size=8, workers=2))
    for batch, images in zip(batches, reference, strict=True):
        assert torch.equal(batch.images, images)
    assert caplog.text.count("shared memory (/dev/shm) lacks room") == 1


@needs_fork
def test_training_needs_no_shared_memory_folder(monkeypatch):
    def no_room(tensor):
        raise AssertionError("/dev/shm was asked for")

    source = Pictures()
    reference = digests(loader(source))
    monkeypatch.setattr(torch.Tensor, "share_memory_", no_room)
    with loader(source, workers=2) as batches:
        assert digests(batches) == reference


@needs_fork
@pytest.mark.parametrize(("places_too_few", "equal"), [(0, True), (2, False)])
def test_a_place_is_not_written_again_before_it_was_read(places_too_few, equal, monkeypatch):
    """A slow reader and fast workers; with fewer places than results under way it goes wrong."""
    real = shared_places

    def fewer(shape, *, workers):
        return real(shape, workers=workers)[places_too_few:]

    source = Pictures()
    reference = digests(loader(source, stop=30))
    monkeypatch.setattr("isopatch.data.loader.shared_places", fewer)
    finish = TrainTransform.finish

    def late(self, pixels, seeds):
        time.sleep(0.03)
        return finish(self, pixels, seeds)

    monkeypatch.setattr(TrainTransform, "finish", late)
    with loader(source, workers=2, stop=30) as batches:
        assert (digests(batches) == reference) is equal


@needs_fork
def test_closing_leaves_nothing_behind():
    batches = loader(Pictures(), workers=2, stop=10**6)
    next(iter(batches))
    pids = [child.pid for child in children()]
    assert len(pids) == 2
    batches.close()
    assert not children()
    left = [name for name in os.listdir("/dev/shm") if any(str(pid) in name for pid in pids)]
    assert not left
    batches.close()


@needs_fork
def test_leaving_the_loop_by_an_error_ends_the_workers():
    with pytest.raises(KeyError), loader(Pictures(), workers=2, stop=10**6) as batches:
        for _ in batches:
            assert len(children()) == 2
            raise KeyError
    assert not children()
    with pytest.raises(KeyError):
        evaluation = eval_batches(Pictures(), CONTRACT, batch_size=2, workers=2)
        for _ in evaluation:
            raise KeyError
    evaluation.close()
    assert not children()


@needs_fork
def test_signals_to_the_whole_group_are_the_parents_to_answer():
    """Ctrl-C reaches every process of the terminal, a scheduler's SIGTERM every process of the job."""
    with loader(Pictures(), workers=2, stop=40) as batches:
        iterator = iter(batches)
        next(iterator)
        for child in children():
            os.kill(child.pid, signal.SIGINT)
            os.kill(child.pid, signal.SIGTERM)
        assert [batch.step for batch in iterator] == list(range(1, 40))


@needs_fork
def test_workers_die_with_their_parent_and_need_no_heavy_import(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        textwrap.dedent(
            """
            import multiprocessing, os, signal, sys
            import numpy as np
            from PIL import Image
            from isopatch.data.augment import TrainTransform
            from isopatch.data.loader import TrainLoader
            from isopatch.data.sampler import EpochSampler
            from isopatch.image.contract import InputContract
            from isopatch.training.config import AugmentConfig

            class Source:
                classes, fingerprint, labels = ("a",), "f", np.zeros(64, dtype=np.int64)
                def __len__(self): return 64
                def name(self, index): return str(index)
                def read(self, index): return Image.new("RGB", (40, 30))

            for crop in ("padded", "random-resized", "simple-random", "none"):
                transform = TrainTransform(AugmentConfig(crop=crop), InputContract(height=16, width=16))
                sampler = EpochSampler(64, global_batch=8, data_seed=0)
                arguments = dict(workers=2, data_seed=0, start=0, stop=10**6)
                loader = TrainLoader(Source(), transform, sampler, **arguments)
                next(iter(loader))
                if crop != "none":
                    loader.close()
            heavy = [name for name in ("timm", "torchvision") if name in sys.modules]
            print(heavy, *(child.pid for child in multiprocessing.active_children()), flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
            """
        )
    )
    paths = [path for path in sys.path if path]
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    heavy, *pids = done.stdout.split()
    assert heavy == "[]"
    assert len(pids) == 2
    deadline = time.monotonic() + 4  # DataLoader's own watchdog needs 5 s
    while any(running(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(running(pid) for pid in pids)


def running(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@needs_fork
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("batch_size", [1, 7, 40, 64])
def test_evaluation_sees_each_picture_once_in_order(batch_size, workers):
    source = Pictures()
    batches = list(eval_batches(source, CONTRACT, batch_size=batch_size, workers=workers))
    assert [len(batch.labels) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    assert torch.cat([batch.indices for batch in batches]).tolist() == list(range(40))
    np.testing.assert_array_equal(torch.cat([batch.labels for batch in batches]), source.labels)
    expected = torch.stack([prepare(source.read(index), CONTRACT) for index in range(40)])
    assert torch.equal(torch.cat([batch.images for batch in batches]), expected)
    assert not children()


def test_evaluation_of_chosen_pictures_keeps_their_order():
    batches = list(eval_batches(Pictures(), CONTRACT, batch_size=2, indices=[9, 3, 30], memory_limit_mb=10))
    assert [batch.indices.tolist() for batch in batches] == [[9, 3], [30]]
    assert [batch.labels.tolist() for batch in batches] == [[0, 0], [0]]
    assert list(eval_batches(Pictures(), CONTRACT, batch_size=2, indices=[])) == []


@needs_fork
@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_names_a_bad_picture(workers):
    with pytest.raises(DecodeError, match="picture-17: damaged"):
        list(eval_batches(Pictures(bad={17}), CONTRACT, batch_size=4, workers=workers))
    assert not children()
