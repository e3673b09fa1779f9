"""Fitted models in files that run no code when they are read, each with a card beside it.

``{model}.skops`` is a zip of arrays and of a JSON tree that names the type of every object in it.
Nothing of a file is built before each of these types has been found in :data:`TRUSTED_TYPES`; a
file that holds another one, and a pickle, are refused. A trusted type can still hold wrong
content: the trees of a loaded model are checked to lead forward to nodes and features that exist,
because the libraries follow them without looking. XGBoost's trees are its own JSON text.

``{model}.json`` is the card: what the model was trained on, what it asks for, how good it is.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import ValidationError

from cryofuse.config import Model, Settings, Target
from cryofuse.logs import UserError
from cryofuse.tables import written

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pandas as pd
    from sklearn.pipeline import Pipeline

#: Every type that a file may hold, by its full name.
TRUSTED_TYPES = frozenset(
    {
        "builtins.dict",
        "builtins.list",
        "builtins.str",
        "builtins.tuple",
        "cryofuse.learning.models.DropEmpty",
        "cryofuse.learning.terms.VaryingDensity",
        "cryofuse.learning.terms.WeighByIce",
        "numpy.dtype",
        "numpy.float64",
        "numpy.ndarray",
        "numpy.random._generator.Generator",
        "numpy.uint64",
        "sklearn._loss._loss.CyHalfSquaredError",
        "sklearn._loss.link.IdentityLink",
        "sklearn._loss.link.Interval",
        "sklearn._loss.loss.HalfSquaredError",
        "sklearn.ensemble._forest.RandomForestRegressor",
        "sklearn.ensemble._hist_gradient_boosting.binning._BinMapper",
        "sklearn.ensemble._hist_gradient_boosting.gradient_boosting.HistGradientBoostingRegressor",
        "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
        "sklearn.impute._base.MissingIndicator",
        "sklearn.impute._base.SimpleImputer",
        "sklearn.linear_model._ridge.Ridge",
        "sklearn.preprocessing._data.StandardScaler",
        "sklearn.tree._classes.DecisionTreeRegressor",
        "sklearn.tree._tree.Tree",
    }
)
#: How skops may have stored them: no functions, methods, partials or bytes.
_TRUSTED_LOADERS = frozenset(
    {
        "DTypeNode",
        "DictNode",
        "JsonNode",
        "ListNode",
        "LossNode",
        "NdArrayNode",
        "ObjectNode",
        "RandomGeneratorNode",
        "TreeNode",
        "TupleNode",
        "TypeNode",
    }
)
#: Largest content of a file when unpacked (bytes): a forest of 2 000 deep trees takes a tenth.
MAX_BYTES = 1_000_000_000
#: Libraries whose versions a card states.
_LIBRARIES = ("cryofuse", "numpy", "scikit-learn", "skops", "xgboost-cpu")
#: What XGBoost states of each node of a tree.
_BOOSTER_COLUMNS = (
    "base_weights",
    "default_left",
    "left_children",
    "loss_changes",
    "parents",
    "right_children",
    "split_conditions",
    "split_indices",
    "split_type",
    "sum_hessian",
)
#: Name of the tree of types inside a file.
_SCHEMA = "schema.json"


class FeatureCard(Settings):
    """A feature as a model knows it: unit, range and nulls in its training samples."""

    name: str
    unit: str
    low: float
    high: float
    nulls: bool


class ScoreCard(Settings):
    """A held-out score of the model's kind, from the table of scores."""

    split: str
    score: str
    value: float | None
    lower: float | None
    upper: float | None
    n: int
    reason: str | None


class Card(Settings):
    """What a saved model was trained on, what it asks for, and how good it is.

    ``months`` holds the months of each mascon trained on. The half width is that of a conformal
    interval (cm) by the held-out residuals of the inner folds of ``calibration_split``. Where the
    data allowed no model there is no file, and ``reason`` says why.
    """

    format: Literal[1] = 1
    model: Model
    target: Target
    region: str
    product: str
    unit: str
    reason: str | None = None
    file: str | None = None
    file_sha256: str | None = None
    data_sha256: str | None = None
    n_samples: int = 0
    first_month: str | None = None
    last_month: str | None = None
    zero_month: str | None = None
    step_months: int | None = None
    features: list[FeatureCard] = []
    parameters: dict[str, float | int | str | None] = {}
    trees: int
    seed: int
    inner_rmse_cm: list[float] = []
    calibration_split: str | None = None
    coverage: float
    half_width_cm: float | None = None
    n_residuals: int = 0
    scores: list[ScoreCard] = []
    versions: dict[str, str] = {}
    provenance: dict[str, Any] = {}
    months: dict[int, str] = {}


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that a saved model depends on."""
    return {name: version(name) for name in _LIBRARIES}


def digest_samples(keys: pd.DataFrame, x: np.ndarray, y: np.ndarray, names: Sequence[str]) -> str:
    """Return the SHA-256 of training samples, whatever the order of their rows and columns.

    Hashed are the names in alphabetical order as JSON, then of the samples in order of mascon
    and month: ids (int32), months since January 1970 (int64), targets and features (float64),
    all little-endian, row by row, with one bit pattern for missing and for zero.

    Parameters
    ----------
    keys
        Columns mascon_id and month.
    x, y
        Features (n × p, NaN where missing) and targets (cm).
    names
        Names of the columns of ``x``.
    """
    from cryofuse.calendar import month_index

    mascon = keys["mascon_id"].to_numpy()
    month = month_index(keys["month"].to_numpy())
    rows = np.lexsort((month, mascon))
    columns = np.argsort(np.array(names))
    found = hashlib.sha256(json.dumps(sorted(names)).encode())
    found.update(mascon[rows].astype("<i4").tobytes())
    found.update(month[rows].astype("<i8").tobytes())
    for values in (y[rows], x[np.ix_(rows, columns)]):
        # Adding zero turns −0 to 0.
        plain = np.where(np.isnan(values), np.nan, values + 0.0)
        found.update(np.ascontiguousarray(plain, dtype="<f8").tobytes())
    return found.hexdigest()


def save_model(pipeline: Pipeline, card: Card, folder: str | Path) -> Card:
    """Write ``{model}.skops`` and its card to a folder; return the card with the file's digest.

    The bytes depend on the fitted model alone.

    Raises
    ------
    UserError
        If the pipeline holds a type that would not be trusted when the file is read.
    """
    path = Path(folder) / f"{card.model}.skops"
    data = _pack(pipeline)
    _check_types(data, path)
    with written(path) as temporary:
        temporary.write_bytes(data)
    update = {"file": path.name, "file_sha256": hashlib.sha256(data).hexdigest()}
    card = card.model_copy(update=update)
    write_card(card, folder)
    return card


def write_card(card: Card, folder: str | Path) -> None:
    """Write a card to a folder."""
    with written(Path(folder) / f"{card.model}.json") as temporary:
        temporary.write_text(json.dumps(card.model_dump(mode="json"), indent=1) + "\n")


def read_card(path: str | Path) -> Card:
    """Return a card.

    Raises
    ------
    UserError
        If the file is no card.
    """
    try:
        return Card.model_validate(json.loads(Path(path).read_bytes()))
    except FileNotFoundError:
        raise UserError(f"predict: no file {path}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ": ".join(str(part) for part in first["loc"])
        raise UserError(f"{path} is no card of a saved model ({where}: {first['msg']})") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no card of a saved model ({error})") from None


def load_model(card: Card, folder: str | Path) -> Pipeline:
    """Return the fitted pipeline that a card describes.

    Raises
    ------
    UserError
        If the file is not the one that the card describes, is no saved model, or holds anything
        that is not trusted; nothing of it has been built then.
    """
    path = Path(folder) / str(card.file)
    # A card from elsewhere must not lead out of its folder.
    if card.file != f"{card.model}.skops" or not path.is_file():
        raise UserError(f"predict: no file {Path(folder) / card.model}.skops")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != card.file_sha256:
        raise UserError(
            f"{path} is not the file that its card describes: it was changed or cut short "
            "(SHA-256 differs); take both from one run"
        )
    _check_types(data, path)
    try:
        pipeline = _unpack(data)
        check_trees(pipeline, len(card.features))
    except UserError:
        raise
    except Exception as error:
        # Whatever the content is made of, the reader is told in a line.
        raise UserError(
            f"{path} cannot be read as a saved model ({type(error).__name__}: {error})"
        ) from None
    return pipeline


def _pack(pipeline: Pipeline) -> bytes:
    """Return a fitted pipeline as the bytes of a file."""
    from skops.io import dumps
    from xgboost import XGBRegressor

    steps, booster = list(pipeline.steps), None
    if isinstance(steps[-1][1], XGBRegressor):
        booster = steps.pop()[1].get_booster().save_raw("json").decode()
    return _settle(dumps({"steps": steps, "booster": booster}))


def _unpack(data: bytes) -> Pipeline:
    """Return the pipeline in a file whose types have been checked."""
    from sklearn.pipeline import Pipeline
    from skops.io import loads
    from xgboost import XGBRegressor

    content = loads(data, trusted=sorted(TRUSTED_TYPES))
    steps, booster = list(content["steps"]), content["booster"]
    if booster is not None:
        _check_booster(json.loads(booster))
        model = XGBRegressor()
        model.load_model(bytearray(booster, "utf-8"))
        steps.append(("xgbregressor", model.set_params(n_jobs=1)))
    return Pipeline(steps)


def _settle(data: bytes) -> bytes:
    """Return a skops file without what differs from one writing to the next.

    Objects are numbered by their place instead of their address, files by their order, and times
    are those of no day.
    """
    numbers: dict[int, int] = {}
    files: dict[str, str] = {}
    with zipfile.ZipFile(io.BytesIO(data)) as old:
        schema = json.loads(old.read(_SCHEMA))
        for node in _nodes(schema):
            if "__id__" in node:
                node["__id__"] = numbers.setdefault(node["__id__"], len(numbers))
            if isinstance(node.get("file"), str) and "__loader__" in node:
                name = node["file"]
                node["file"] = files.setdefault(name, f"{len(files):05d}{Path(name).suffix}")
        content = {new: old.read(name) for name, new in files.items()}
    content[_SCHEMA] = json.dumps(schema).encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new_zip:
        for name, part in content.items():
            new_zip.writestr(zipfile.ZipInfo(name), part, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Yield every mapping of a JSON tree, the outer ones first."""
    waiting = [tree]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield value
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def _check_types(data: bytes, path: Path) -> None:
    """Refuse a file that is no zip of a type tree, or whose tree names a type not trusted."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as opened:
            size = sum(item.file_size for item in opened.infolist())
            if size > MAX_BYTES:
                raise UserError(f"{path} unpacks to {size} bytes, more than {MAX_BYTES}")
            schema = json.loads(opened.read(_SCHEMA))
    except (zipfile.BadZipFile, KeyError, ValueError, RecursionError, NotImplementedError):
        raise UserError(
            f"{path} is no saved model: expected a skops file (a zip with {_SCHEMA}), found "
            "something else, such as a pickle; nothing of it was loaded"
        ) from None
    strange = set()
    for node in _nodes(schema):
        if not {"__class__", "__module__", "__loader__"} & set(node):
            continue
        name, loader = f"{node.get('__module__')}.{node.get('__class__')}", node.get("__loader__")
        if name not in TRUSTED_TYPES or loader not in _TRUSTED_LOADERS:
            strange.add(f"{name} (as {loader})")
    if strange:
        raise UserError(
            f"{path} holds {', '.join(sorted(strange)[:5])}, which a saved model may not hold; "
            "nothing of it was loaded"
        )


def check_trees(pipeline: Pipeline, n_features: int) -> None:
    """Refuse a model whose trees lead out of their nodes or features, or round in a ring.

    A model without trees is asked for a prediction instead: NumPy looks where it reads.

    Parameters
    ----------
    pipeline
        Loaded pipeline.
    n_features
        Features that samples will have.

    Raises
    ------
    ValueError
        If a tree does not hold, or a model of other sizes cannot predict.
    """
    from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor
    from sklearn.linear_model import Ridge
    from sklearn.tree._tree import Tree
    from xgboost import XGBRegressor

    from cryofuse.learning.terms import VaryingDensity

    probe = np.zeros((1, n_features))
    for _, step in pipeline.steps[:-1]:
        probe = step.transform(probe)
    width = probe.shape[1]
    last = pipeline.steps[-1][1]
    if isinstance(last, RandomForestRegressor):
        last.n_jobs = 1
        for member in last.estimators_:
            if type(member.tree_) is not Tree:
                raise ValueError("a member of the forest is no tree")
            tree = member.tree_
            _check_tree(
                tree.children_left, tree.children_right, tree.feature, tree.children_left < 0, width
            )
    elif isinstance(last, HistGradientBoostingRegressor):
        from sklearn.ensemble._hist_gradient_boosting.common import PREDICTOR_RECORD_DTYPE

        for (predictor,) in last._predictors:
            nodes = predictor.nodes
            if nodes.dtype != PREDICTOR_RECORD_DTYPE or nodes.ndim != 1:
                raise ValueError("a tree's nodes have other fields than this scikit-learn's")
            if nodes["is_categorical"].any():
                raise ValueError("a tree splits categories, which no feature has")
            left, right = nodes["left"].astype(np.int64), nodes["right"].astype(np.int64)
            _check_tree(left, right, nodes["feature_idx"], nodes["is_leaf"] != 0, width)
    elif isinstance(last, XGBRegressor):
        if last.get_booster().num_features() != width:
            raise ValueError("the booster asks for other features than the card names")
    elif isinstance(last, Ridge | VaryingDensity):
        last.predict(probe)
    else:
        raise ValueError("the last step is no model")


def _check_booster(booster: dict[str, Any]) -> None:
    """Refuse a booster, in XGBoost's own JSON, whose trees lead elsewhere."""
    learner = booster["learner"]
    width = int(learner["learner_model_param"]["num_feature"])
    gradient = learner["gradient_booster"]
    if gradient["name"] != "gbtree":
        raise ValueError("the booster is not made of trees")
    for tree in gradient["model"]["trees"]:
        n = int(tree["tree_param"]["num_nodes"])
        if any(len(tree[name]) != n for name in _BOOSTER_COLUMNS) or any(tree["split_type"]):
            raise ValueError("a tree of the booster is cut short, or splits categories")
        left, right = np.array(tree["left_children"]), np.array(tree["right_children"])
        _check_tree(left, right, np.array(tree["split_indices"]), left < 0, width)


def _check_tree(
    left: np.ndarray, right: np.ndarray, feature: np.ndarray, leaf: np.ndarray, width: int
) -> None:
    """Refuse a tree of which a node's children do not follow it, or a feature is not there."""
    here, n = np.arange(len(leaf)), len(leaf)
    inner = ~leaf
    held = n > 0 and all(
        (child[inner] > here[inner]).all() and (child[inner] < n).all() for child in (left, right)
    )
    if not held or (feature[inner] < 0).any() or (feature[inner] >= width).any():
        raise ValueError("a tree leads to a node or feature that is not there")
