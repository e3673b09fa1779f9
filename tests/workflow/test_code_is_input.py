"""Each rule's list of modules covers what its script really imports."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from cryofuse.sources import imported_files, module_files

ROOT = Path(__file__).parents[2]
RULES = "\n".join(path.read_text() for path in sorted((ROOT / "workflow" / "rules").glob("*.smk")))
SCRIPTS = sorted(path.name for path in (ROOT / "workflow" / "scripts").glob("*.py"))

# Runs each script without a job and says which of the package's modules that imported.
PROBE = """
import runpy, sys
for script in sys.argv[1:]:
    for name in [n for n in sys.modules if n == "cryofuse" or n.startswith("cryofuse.")]:
        del sys.modules[name]
    runpy.run_path(script, run_name="probe")
    files = [m.__file__ for n, m in list(sys.modules.items())
             if (n == "cryofuse" or n.startswith("cryofuse.")) and m.__file__]
    print(script, *files, sep="|")
"""


def listed(script):
    """Return the modules that the script's rule names in lib(...), and those for Spark alone."""
    blocks = re.split(r"^\s*rule \w+:", RULES, flags=re.MULTILINE)
    block = next(b for b in blocks if f"/scripts/{script}" in b)
    named = re.search(r"lib=lib\(([^)]*)\)", block)
    assert named, f"the rule of {script} lists no module"
    always, _, on_spark = named.group(1).partition("*on_spark(")
    return [re.findall(r'"([^"]+)"', part) for part in (always, on_spark)]


@pytest.fixture(scope="module")
def imported():
    paths = [str(ROOT / "workflow" / "scripts" / name) for name in SCRIPTS]
    shown = subprocess.run(
        [sys.executable, "-c", PROBE, *paths], capture_output=True, text=True, check=True, cwd=ROOT
    )
    lines = [line.split("|") for line in shown.stdout.splitlines()]
    return {Path(script).name: {Path(f) for f in files} for script, *files in lines}


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_rule_lists_what_the_script_imports(script, imported):
    always, _ = listed(script)
    files = set(module_files(*always, "logs", "provenance"))
    missing = {str(f.relative_to(ROOT)) for f in imported[script] - files}
    assert not missing


@pytest.mark.parametrize("script", ["cluster_regimes.py", "score_skill.py"])
def test_only_with_spark_its_code_is_input(script):
    always, on_spark = listed(script)
    spark = ROOT / "src" / "cryofuse" / "learning" / "spark"
    assert not [f for f in module_files(*always, "logs", "provenance") if spark in f.parents]
    # What is imported where Spark is asked for shows in no run without it.
    named = imported_files(ROOT / "workflow" / "scripts" / script)
    assert [f for f in named if spark in f.parents]
    assert named <= set(module_files(*always, *on_spark, "logs", "provenance"))


def test_every_rule_with_a_script_has_log_benchmark_threads_resources_and_message():
    blocks = [
        b for b in re.split(r"^(?=\s*rule \w+:)", RULES, flags=re.MULTILINE) if "script:" in b
    ]
    assert len(blocks) == len(SCRIPTS)
    for block in blocks:
        directives = ["log:", "benchmark:", "threads:", "resources:", "params:", "message:"]
        # A rule without output runs whenever it is asked for: a benchmark would be an output.
        if "output:" not in block:
            directives.remove("benchmark:")
        for directive in directives:
            assert re.search(rf"^\s*{directive}", block, flags=re.MULTILINE), block[:80]
