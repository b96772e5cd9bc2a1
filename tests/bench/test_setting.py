"""What `--peers`, `--precision` and `--threads` mean, and which settings they become."""

from __future__ import annotations

import pytest

from isopatch.bench.setting import (
    PEERS,
    Setting,
    Task,
    missing_packages,
    of_peer,
    ours,
    read_peers,
    read_precisions,
    read_threads,
)
from isopatch.errors import UsageError

INFER, TRAIN = Task("infer", 8), Task("train", 8)
BOTH = ("fp32", "bf16")


def test_peers_are_read() -> None:
    assert read_peers(None) == PEERS
    assert read_peers("none") == ()
    assert read_peers("openvino, timm,openvino") == ("openvino", "timm")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("openvin", "no peer 'openvin' (did you mean 'openvino'?)"),
        ("timm,tensorrt", "no peer 'tensorrt': there are timm, timm-compile"),
        (",", "give some of timm"),
    ],
)
def test_an_unknown_peer_is_refused_with_the_nearest(text: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        read_peers(text)
    assert message in str(error.value)


def test_auto_precision_is_each_and_an_unknown_one_is_refused() -> None:
    assert read_precisions("auto") == BOTH
    assert read_precisions("bf16,fp32") == BOTH
    assert read_precisions("bf16") == ("bf16",)
    with pytest.raises(UsageError, match=r"'bf61' \(did you mean 'bf16'\?\)"):
        read_precisions("bf61")


def test_threads_are_numbers_above_zero() -> None:
    assert read_threads("2,1,2") == (1, 2)
    for text in ("0", "one", "1,-2", ""):
        with pytest.raises(UsageError, match="--threads"):
            read_threads(text)


def test_plain_and_timm_run_in_every_layout_and_precision_and_twins_choose_their_own() -> None:
    layouts = ("nchw", "channels_last")
    assert len(ours("plain", BOTH, layouts)) == 4
    assert [setting.layout for setting in ours("native", BOTH, layouts)] == [None, None]
    assert len(of_peer("timm", INFER, BOTH, layouts)) == 4
    assert len(of_peer("timm-compile", TRAIN, BOTH, layouts)) == 4
    assert {setting.contender for setting in of_peer("openvino", INFER, BOTH, layouts)} == {
        "openvino-latency",
        "openvino-throughput",
    }


@pytest.mark.parametrize(
    ("peer", "task", "precisions", "message"),
    [
        ("openvino", TRAIN, BOTH, "does not train"),
        ("onnxruntime", TRAIN, BOTH, "does not train"),
        ("openvino", Task("infer", 8, "cuda"), BOTH, "not on cuda"),
        ("onnxruntime", INFER, ("bf16",), "computes in fp32"),
    ],
)
def test_what_a_peer_cannot_do_is_said(peer, task, precisions, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UsageError, match=message):
        of_peer(peer, task, precisions, ("nchw",))


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("isopatch.bench.setting.find_spec", lambda package: None)
    assert missing_packages("onnxruntime") == ["onnxruntime", "onnx", "onnxscript"]
    assert missing_packages("timm") == []  # a dependency of isopatch itself


def test_a_setting_reads_like_a_sentence() -> None:
    assert str(Setting("timm", "bf16", 2, "nchw")) == "timm, bf16, nchw, 2 threads"
    assert str(Setting("isopatch-native", "fp32", 1)) == "isopatch-native, fp32, 1 thread"
