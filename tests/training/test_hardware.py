"""The choices a run makes about its machine: fixed rules, so that two runs agree."""

import pytest

from isopatch.errors import UsageError
from isopatch.training import hardware
from isopatch.training.config import RunConfig


def choose(macs, monkeypatch, flags=(), cores=4, **settings):
    monkeypatch.setattr(hardware, "cpu_flags", lambda: frozenset(flags))
    monkeypatch.setattr(hardware, "available_cores", lambda: cores)
    base = {"model": {"name": "vit"}, "batch_size": 100, "device": "cpu"}
    config = RunConfig.model_validate(base | settings)
    return hardware.choose(config, macs)


def test_tiny_models_take_one_thread_others_all_cores(monkeypatch):
    assert choose(1_000_000, monkeypatch).threads == 1
    assert choose(10_000_000, monkeypatch).threads == 4
    assert choose(1_000_000, monkeypatch, threads=3).threads == 3


def test_bfloat16_where_the_cpu_gains_from_it_and_the_model_is_worth_it(monkeypatch):
    assert choose(10_000_000, monkeypatch, ["amx_bf16"], cores=1).precision == "bf16"
    assert choose(10_000_000, monkeypatch, ["avx512_bf16"]).precision == "bf16"
    assert choose(10_000_000, monkeypatch, ["avx512_bf16"], cores=1).precision == "bf16"
    assert choose(10_000_000, monkeypatch, ["avx2"]).precision == "fp32"
    assert choose(1_000_000, monkeypatch, ["amx_bf16"]).precision == "fp32"
    assert choose(10_000_000, monkeypatch, ["amx_bf16"], precision="fp32").precision == "fp32"


def test_what_the_machine_cannot_do_is_refused(monkeypatch):
    with pytest.raises(UsageError, match="fp16 needs a GPU"):
        choose(1, monkeypatch, precision="fp16")
    monkeypatch.setattr(hardware.torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="no CUDA GPU"):
        choose(1, monkeypatch, device="cuda")
