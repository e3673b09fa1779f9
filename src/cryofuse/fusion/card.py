"""The data card of a feature table: what it holds, what is missing and why, how to read it.

One plain mapping (``features_card.json``) and the same as a page (``features_card.md``). Neither
knows the time of day: the same table has the same card.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cryofuse.calendar import month_index
from cryofuse.fusion.features import BASELINE_MONTHS, data_dictionary, feature_schema, split_lag

if TYPE_CHECKING:
    from cryofuse.config import FeatureSettings

#: How each engine reads the folder as it is; ``{folder}`` is its path.
READERS = {
    "pandas": 'import pandas as pd\n\nfeatures = pd.read_parquet("{folder}")\n',
    "Dask": 'import dask.dataframe as dd\n\nfeatures = dd.read_parquet("{folder}")\n',
    "DuckDB": (
        "import duckdb\n\n"
        "features = duckdb.sql(\n"
        "    \"SELECT * FROM read_parquet('{folder}/*/*/*.parquet', hive_partitioning = true)\"\n"
        ")\n"
    ),
    "Spark": (
        "from pyspark.sql import SparkSession\n\n"
        "spark = SparkSession.builder.getOrCreate()\n"
        'features = spark.read.parquet("{folder}")\n'
    ),
}
#: Why a target is null.
TARGET_REASONS = {
    "change": "no solution of gravimetry in the {step} or the one before it",
    "cumulative": "no solution of gravimetry in the {step}",
}


def describe_features(
    features: pd.DataFrame,
    ledger: pd.DataFrame,
    settings: FeatureSettings,
    region: str,
    products: dict[str, Any],
    provenance: dict[str, Any],
) -> dict[str, Any]:
    """Return the data card of a feature table as plain values.

    Parameters
    ----------
    features, ledger
        Output of :func:`cryofuse.fusion.features.build_features`.
    settings
        Step, spans and lags that the table was built with.
    region
        Name of the region.
    products
        What is known of the altimetry and gravimetry behind the table.
    provenance
        Plain values of the files' metadata.

    Returns
    -------
    dict
        region, step, rows, mascons, first, last (dates), with_elevation_change (rows),
        columns (name, kind, type, unit, formula, window, group, null, reason), gaps (target →
        spans of months that are null in every mascon), products, provenance.
    """
    about = {row["name"]: row for row in data_dictionary(settings)}
    told = dict(zip(ledger["feature"], ledger["reason"], strict=True))
    types = feature_schema(features.columns)
    columns = []
    for name in features.columns:
        base, lag = split_lag(name)
        row = about[base]
        null = int(features[name].isna().sum())
        columns.append(
            {
                "name": name,
                "kind": row["kind"],
                "type": str(types.field(name).type),
                "unit": row["unit"],
                "formula": row["formula"] + (f", {lag} months before" if lag else ""),
                "window": row["window"],
                "group": row["group"],
                "null": null,
                "reason": _reason(name, told, settings) if null else None,
            }
        )
    months = features["month"]
    return {
        "region": region,
        "step": settings.step,
        "rows": len(features),
        "mascons": int(features["mascon_id"].nunique()),
        "first": str(months.min().date()) if len(features) else None,
        "last": str(months.max().date()) if len(features) else None,
        "with_elevation_change": int(features["dh_m"].notna().sum()),
        "columns": columns,
        "gaps": {
            name: _gaps(features, name, 3 if settings.step == "season" else 1)
            for name in ("target_change_cm", "target_cumulative_cm")
        },
        "products": products,
        "provenance": provenance,
    }


def _reason(name: str, told: dict[str, str], settings: FeatureSettings) -> str | None:
    for kind, reason in TARGET_REASONS.items():
        if name.startswith(f"target_{kind}"):
            return reason.format(step=settings.step)
    return told.get(name)


def _gaps(features: pd.DataFrame, name: str, step: int) -> list[list[str]]:
    """Return first and last month of each span in which a column is null in every mascon."""
    held = features[name].notna().groupby(features["month"]).any()
    empty = held.index[~held].to_numpy()
    number = month_index(empty)
    cuts = np.flatnonzero(np.diff(number) != step) + 1
    return [[str(part[0])[:7], str(part[-1])[:7]] for part in np.split(empty, cuts) if part.size]


def render_card(card: dict[str, Any]) -> str:
    """Return a data card as Markdown.

    Parameters
    ----------
    card
        Output of :func:`describe_features`.
    """
    step, rows = card["step"], card["rows"]
    span = f"{card['first'][:7]} to {card['last'][:7]}" if rows else f"no {step}"
    lines = [
        f"# Features of {card['region']}",
        "",
        f"{rows} rows, one for each mascon and {step}: {card['mascons']} mascons, {span}. "
        f"{card['with_elevation_change']} rows have an elevation change. Feature columns of a "
        f"{step} use nothing measured after it. Missing is null, never zero.",
        "",
        "## Read it",
        "",
        f"Files are `features/region={card['region']}/year=…/part-0.parquet`; region and year "
        "are columns to every reader. Timestamps are microseconds without a zone (UTC).",
    ]
    for engine, code in READERS.items():
        lines += ["", f"{engine}:", "", "```python", *code.format(folder="features").splitlines()]
        lines += ["```"]
    lines += [
        "",
        "## Columns",
        "",
        "| column | kind | unit | null rows | share | why null |",
        "|---|---|---|---|---|---|",
    ]
    lagged: dict[str, list[int]] = {}
    for column in card["columns"]:
        base, lag = split_lag(column["name"])
        if lag:
            lagged.setdefault(base, []).append(column["null"])
            continue
        share = f"{column['null'] / rows:.1%}" if rows else ""
        lines.append(
            f"| `{column['name']}` | {column['kind']} | {column['unit']} | {column['null']} | "
            f"{share} | {column['reason'] or ''} |"
        )
    if lagged:
        lines += ["", "Lags, as `name_lag01` (months before):", ""]
        lines += ["| feature | lags | null rows, least to most |", "|---|---|---|"]
        lines += [
            f"| `{base}` | {len(null)} | {min(null)} to {max(null)} |"
            for base, null in lagged.items()
        ]
    lines += ["", "## Gaps of the targets", ""]
    for name, gaps in card["gaps"].items():
        spans = ", ".join(first if first == last else f"{first} to {last}" for first, last in gaps)
        lines.append(f"- `{name}` is null in every mascon: {spans or 'never'}")
    lines += [
        "",
        f"The cumulative target counts from its mean over the first {BASELINE_MONTHS} months of "
        "the period that have a solution.",
        "",
        "## Products",
        "",
    ]
    for product, facts in card["products"].items():
        told = "; ".join(f"{key} {_plain(value)}" for key, value in facts.items())
        lines.append(f"- {product}: {told or 'nothing recorded'}")
    lines += ["", "Cite:", ""]
    lines += [f"- {citation}" for citation in card["provenance"].get("citations", [])]
    lines += ["", "## Provenance", ""]
    lines += [
        f"- {key}: {_plain(value)}"
        for key, value in card["provenance"].items()
        if key not in ("citations", "inputs")
    ]
    lines += [f"- {len(card['provenance'].get('inputs', []))} input files, in `features_card.json`"]
    return "\n".join(lines) + "\n"


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_plain(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        return ", ".join(_plain(inner) for inner in value)
    return str(value)
