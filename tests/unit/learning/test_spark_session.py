"""What Spark lacks is told in one line, with what was found and how to mend it."""

import socket
import sys
from pathlib import Path

import pytest

from cryofuse.config import ConfigError, LearningSettings, load_config, local_cores, master_kind
from cryofuse.learning.spark.session import (
    _first_line,
    open_session,
    require_java,
    require_master,
)
from cryofuse.logs import UserError

REGIONS = Path(__file__).parents[3] / "config" / "regions"


def write_java(folder: Path, told: str) -> Path:
    """Put a program java into a folder that says this when it is asked for its version."""
    folder.mkdir(parents=True)
    program = folder / "java"
    program.write_text(f"#!/bin/sh\necho '{told}' >&2\n")
    program.chmod(0o755)
    return folder


def line(error: pytest.ExceptionInfo) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def test_missing_pyspark_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyspark", None)
    with pytest.raises(UserError) as error, open_session("local[*]", "test", 1, 1000):
        pass
    assert "pip install '.[spark]'" in line(error)


def test_missing_java_is_told(monkeypatch, tmp_path):
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError) as error:
        require_java()
    assert "Java 17" in line(error)
    assert "openjdk-17-jre-headless" in line(error)


def test_an_empty_java_home_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(UserError) as error:
        require_java()
    assert f"JAVA_HOME names {tmp_path}" in line(error)


@pytest.mark.parametrize(
    ("told", "found"),
    [
        ('openjdk version "11.0.21" 2023-10-17', "11.0.21"),
        ('java version "1.8.0_392"', "1.8.0_392"),
        ("Error: no libjvm", "Error: no libjvm"),
    ],
)
def test_an_old_or_broken_java_is_told_with_its_version(monkeypatch, tmp_path, told, found):
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", f"{write_java(tmp_path / 'bin', told)}:/usr/bin:/bin")
    with pytest.raises(UserError) as error:
        require_java()
    assert f"is {found}" in line(error)


@pytest.mark.parametrize(
    "told", ['openjdk version "17.0.15" 2025-04-15', 'openjdk version "21" 2023-09-19']
)
def test_a_young_java_is_taken_from_java_home(monkeypatch, tmp_path, told):
    write_java(tmp_path / "bin", told)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    require_java()


def test_a_master_that_does_not_answer_is_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        master = f"spark://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(UserError) as error:
            require_master(master)
        assert master in line(error)
        # One of two is enough.
        taken.listen()
        require_master(f"spark://127.0.0.1:1,{master.removeprefix('spark://')}")


@pytest.mark.parametrize(
    ("master", "kind", "cores"),
    [
        ("local", "local", 1),
        ("local[*]", "local", 8),
        ("local[4]", "local", 4),
        ("local[*,2]", "local", 8),
        ("local[12, 2]", "local", 12),
        ("spark://node-1:7077", "standalone", None),
        ("spark://node-1:7077,node-2:7077", "standalone", None),
        ("yarn", "yarn", None),
        ("k8s://https://10.0.0.1:6443", "kubernetes", None),
    ],
)
def test_kinds_of_masters_are_told_apart(master, kind, cores):
    assert LearningSettings(master=master).master == master
    assert master_kind(master) == kind
    assert local_cores(master, 8) == cores


@pytest.mark.parametrize(
    "master", ["lokal[2]", "local[]", "local[0]", "spark://node-1", "node-1:7077", "k8s://", ""]
)
def test_what_is_no_master_is_refused_with_the_configuration(master):
    with pytest.raises(ConfigError) as error:
        load_config({"learning": {"master": master}}, REGIONS)
    told = line(error)
    assert told.startswith("config: learning: master: no Spark master; expected local[*]")
    assert f"(found {master!r})" in told


def test_an_engine_that_is_not_installed_is_refused_with_the_configuration(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyspark", None)
    LearningSettings().require_engine()
    with pytest.raises(ConfigError) as error:
        LearningSettings(engine="spark").require_engine()
    assert "pip install '.[spark]'" in line(error)


@pytest.mark.parametrize(
    ("error", "told"),
    [(OSError(), "OSError"), (ValueError("\n"), "ValueError"), (OSError("one\ntwo"), "one")],
)
def test_an_error_is_told_by_its_first_line_or_its_kind(error, told):
    assert _first_line(error) == told
