"""Files generated from the models: defaults, schema, and the tables of keys and columns.

``python -m cryofuse.reference_docs`` rewrites them; a test says when they are out of step.
"""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from cryofuse.config import Config, LaggedFeature, RegionSettings

_WIDTH = 96


def _section(field: FieldInfo) -> type[BaseModel] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _default(field: FieldInfo) -> Any:
    value = field.get_default(call_default_factory=True, validated_data={})
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return value.isoformat() if hasattr(value, "isoformat") else value


def _kind(annotation: Any) -> str:
    """Return a type as people write it in a table."""
    origin = get_origin(annotation)
    if origin is Literal:
        return ", ".join(str(choice) for choice in get_args(annotation))
    if origin in (Union, UnionType):
        return " or ".join(_kind(part) for part in get_args(annotation))
    if origin is list:
        return f"list of {_kind(get_args(annotation)[0])}"
    if origin is dict:
        return "mapping"
    if hasattr(annotation, "__metadata__"):
        return _kind(get_args(annotation)[0])
    if annotation is type(None):
        return "null"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "mapping"
    names = {str: "text", float: "number", int: "whole number", bool: "true or false"}
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _scalar(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")


def render_defaults() -> str:
    """Return config.yaml: every key with its default, its meaning above it."""
    lines = ["# Defaults of cryofuse: every key, what it means, its unit in its name."]
    lines += ["# Overlays (--configfile) merge mappings and replace lists."]

    def write(model: type[BaseModel], indent: str) -> None:
        for name, field in model.model_fields.items():
            section = _section(field)
            if section and not indent:
                lines.append("")
            about = textwrap.wrap(field.description or "", _WIDTH - len(indent))
            lines.extend(f"{indent}# {line}" for line in about)
            if section:
                lines.append(f"{indent}{name}:")
                write(section, indent + "  ")
                continue
            entry = f"{indent}{name}: {_scalar(_default(field))}"
            if len(entry) > _WIDTH and isinstance(_default(field), list):
                lines.append(f"{indent}{name}:")
                lines.extend(f"{indent}  - {_scalar(item)}" for item in _default(field))
            else:
                lines.append(entry)

    write(Config, "")
    return "\n".join(lines) + "\n"


def render_schema() -> str:
    """Return the JSON schema of the configuration and of a region file."""
    schema = {"config": Config.model_json_schema(), "region": RegionSettings.model_json_schema()}
    return json.dumps(schema, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _rows(model: type[BaseModel], prefix: str = "") -> list[str]:
    rows = []
    for name, field in model.model_fields.items():
        section = _section(field)
        if section:
            rows += _rows(section, f"{prefix}{name}: ")
            continue
        default = "required" if field.is_required() else f"`{_scalar(_default(field))}`"
        if len(default) > 60:
            default = "see config.yaml"
        kind = _kind(field.annotation).replace("|", "\\|")
        kind = kind if len(kind) < 120 else "list of names"
        about = (field.description or "").replace("|", "\\|")
        rows.append(f"| `{prefix}{name}` | {kind} | {default} | {about} |")
    return rows


def render_table() -> str:
    """Return config/README.md: every key in a table."""
    head = ["| key | value | default | meaning |", "|---|---|---|---|"]
    return "\n".join(
        [
            "# Configuration",
            "",
            "Generated from `src/cryofuse/config.py` by `make docs`. Lengths are metres unless",
            "the key's name says otherwise; months are `YYYY-MM`.",
            "",
            "`config.yaml` holds the defaults; `--configfile FILE` lays another file over it",
            "(mappings are merged, lists replaced) and `--config regions=antarctica` sets a key.",
            "A wrong key stops the run before it starts, one line for each mistake.",
            "",
            "## config.yaml",
            "",
            *head,
            *_rows(Config),
            "",
            "## regions/NAME.yaml",
            "",
            "Paths start from the project's root. Keys of a region's file can be replaced without",
            "editing it: `region_settings: {greenland: {outline: finer.gpkg}}` in an overlay.",
            "",
            *head,
            *_rows(RegionSettings),
            "",
        ]
    )


def render_tables() -> str:
    """Return docs/tables.md: every table's columns, types and meaning."""
    from cryofuse.tables import CONTRACTS

    lines = [
        "# Tables",
        "",
        "Generated from `src/cryofuse/tables.py` by `make docs`. Files are Parquet under",
        "`results/{region}/`; every write is checked against this list. `month` is the first",
        "day of a month, times are UTC, missing is null. Elevation change is positive for",
        "thickening, mass change for gain. The file's metadata (key `cryofuse`) holds its",
        "provenance.",
    ]
    for name, table in CONTRACTS.items():
        lines += ["", f"## {name}", ""]
        if table.key:
            lines += [f"One row for each {' × '.join(f'`{key}`' for key in table.key)}.", ""]
        lines += ["| column | type | null | meaning |", "|---|---|---|---|"]
        for column, rule in table.columns.items():
            about = rule.about.replace("|", "\\|")
            lines.append(f"| `{column}` | {rule.kind} | {'yes' if rule.null else ''} | {about} |")
    return "\n".join(lines) + "\n"


_FEATURES_ABOUT = """
Generated from `src/cryofuse/fusion/features.py` by `make docs`. One row is one mascon and month
(`features: step: month`) or one whole season, DJF, MAM, JJA or SON (`step: season`: means of at
least two of the three months; targets need all three). The files are
`results/{region}/features/region=…/year=…/part-0.parquet`; `features_card.md` beside them counts
what a run's table holds and lacks.

A feature uses nothing measured after the end of its month (season), by construction: all that
altimetry tells, heights and slopes too, comes from node fits that hold the segments up to that
month alone. A test moves, removes and adds segments after a month and compares the bits of all
features up to it.
"""
_FEATURES_LAGS = """
Importance is measured by group: a feature with its lags and siblings. Lags are columns named
`dh_m_lag01` … `dh_m_lag12`; `lag03` is the value three months before.

Dynamic features, those with lags, are the change itself, its shortest difference and its
interannual part. {others} can have lags too (`features: lagged`), and have none by default: rate,
share of thinning and spread describe a fit to the whole past, whose lags repeat what the month
says; the lagged share of ice sampled tells of clouds and orbits. Amplitude and phase of the
cycle, height and slope belong to the place. Longer differences are sums of lagged shorter ones.
"""
_FEATURES_FILES = """
Timestamps are microseconds without a zone (UTC), which Spark takes for `TIMESTAMP_NTZ`. `region`
and `year` come from the folders' names. Every file has one schema, whichever columns are null in
it. Several regions are several folders: read each, then join the rows.
"""


def render_features() -> str:
    """Return docs/features.md: every column of the feature table, and how engines read it."""
    from cryofuse.config import FeatureSettings
    from cryofuse.fusion.card import READERS
    from cryofuse.fusion.features import data_dictionary

    rows = data_dictionary()
    every = data_dictionary(FeatureSettings(lagged=list(get_args(LaggedFeature))))
    others = [
        f"`{row['name']}`"
        for row, most in zip(rows, every, strict=True)
        if most["lags"] and not row["lags"]
    ]
    features = [row for row in rows if row["kind"] == "feature"]
    lines = ["# Features", _FEATURES_ABOUT]
    lines += ["## Columns that are no features", ""]
    lines += ["| column | kind | unit | meaning |", "|---|---|---|---|"]
    lines += [
        f"| `{row['name']}` | {row['kind']} | {row['unit']} | {row['formula']} |"
        for row in rows
        if row not in features
    ]
    lines += ["", "## Features", ""]
    lines += ["With the default spans (`change_windows_months`) and lags (`lags_months`).", ""]
    lines += ["| feature | unit | formula | knows | group | lags |", "|---|---|---|---|---|---|"]
    lines += [
        f"| `{row['name']}` | "
        + " | ".join(row[key] for key in ("unit", "formula", "window", "group", "lags"))
        + " |"
        for row in features
    ]
    told = f"{', '.join(others[:-1])} and {others[-1]}"
    lines += [_FEATURES_LAGS.format(others=told), "## Reading them"]
    for engine, code in READERS.items():
        lines += ["", f"{engine}:", "", "```python"]
        lines += [*code.format(folder="results/demo/features").splitlines(), "```"]
    return "\n".join(lines) + f"\n{_FEATURES_FILES}"


#: Generated files, from the project's root, and what renders each.
GENERATED = {
    "config/config.yaml": render_defaults,
    "config/schema.json": render_schema,
    "config/README.md": render_table,
    "docs/tables.md": render_tables,
    "docs/features.md": render_features,
}


def write_all(root: Path) -> None:
    """Write every generated file below the project's root."""
    for name, render in GENERATED.items():
        (root / name).write_text(render())


if __name__ == "__main__":
    write_all(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
