import warnings

import pytest

from cryofuse.logs import UserError, job_log


def test_a_users_mistake_is_one_line_without_a_traceback(tmp_path):
    with pytest.raises(SystemExit), job_log(str(tmp_path / "a.log")):
        raise UserError("local: atl06_dir: no folder /data")
    text = (tmp_path / "a.log").read_text()
    assert len(text.splitlines()) == 1
    assert "no folder /data" in text


def test_a_defect_leaves_its_traceback_and_a_warning_its_line(tmp_path):
    with pytest.raises(SystemExit), job_log(str(tmp_path / "a.log")):
        warnings.warn("a warning", stacklevel=1)
        raise ZeroDivisionError
    text = (tmp_path / "a.log").read_text()
    assert "a warning" in text
    assert "Traceback" in text and "ZeroDivisionError" in text
