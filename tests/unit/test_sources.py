import subprocess
import sys
from pathlib import Path

import pytest

from cryofuse.sources import PACKAGE, module_files


def test_the_files_of_a_module_cover_what_python_really_imports():
    code = (
        "import sys, cryofuse.rasters\n"
        "for name, module in sys.modules.items():\n"
        "    if name.startswith('cryofuse'): print(module.__file__)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    really = {Path(line) for line in shown.stdout.split()}
    assert really <= set(module_files("rasters"))
    assert PACKAGE / "learning" / "skill.py" not in module_files("rasters")


def test_a_module_that_is_not_there_is_an_error():
    with pytest.raises(FileNotFoundError):
        module_files("no/such")
