"""No change to the class folders of a split shifts a label."""

import pytest
from benchmarks.reliability import class_folders


@pytest.mark.parametrize("split", class_folders.PER_CLASS)
@pytest.mark.parametrize("case", class_folders.CASES)
def test_no_label_shifts(case, split, tmp_path):
    result = class_folders.check(tmp_path, case, split, run=None)
    assert result["problems"] == []


def test_control_numbering_by_position_shifts(tmp_path):
    shifted = {
        case: class_folders.check(tmp_path, case, "val", run=None)["shifted_by_position"]
        for case in ("nothing (control)", "absent", "extra", "hidden folder")
    }
    assert shifted.pop("nothing (control)") == 0
    assert all(shifted.values()), shifted


def test_a_model_is_evaluated_by_name_where_a_class_is_absent(tmp_path):
    class_folders.make_tree(tmp_path / "whole")
    class_folders.train_on(tmp_path / "whole", tmp_path / "run")
    result = class_folders.check(tmp_path, "absent", "test", run=tmp_path / "run")
    assert result["problems"] == []
