"""Tables from files, and the recipe that turns their rows into inputs and targets."""

from __future__ import annotations

import json
import sys

import numpy as np
import pandas as pd
import pytest

from hnbayes.cli.errors import InputError
from hnbayes.cli.recipe import Recipe, make_recipe
from hnbayes.cli.tables import read_table

TABLE = pd.DataFrame({"a": [1.0, 2.0, 3.0, 6.0], "b": [0, 1, 0, 1], "y": [5.0, 7.0, 6.0, 9.0]})


def recipe_of(table, train=None, **changes):
    options = {"target": "y", "task": None, "hidden": (3,), "activation": "tanh", "likelihood": None}
    options |= {"prior": "fan_in:2", "where": "t.csv"} | changes
    return make_recipe(table, np.arange(len(table)) if train is None else np.array(train), **options)


# Files


@pytest.mark.parametrize(("name", "separator"), [("t.csv", ","), ("t.tsv", "\t"), ("t.TXT", "\t")])
def test_separated_files(tmp_path, name, separator):
    TABLE.to_csv(tmp_path / name, sep=separator, index=False)
    pd.testing.assert_frame_equal(read_table(tmp_path / name), TABLE)


def test_byte_order_marks_and_spaces_around_names(tmp_path):
    (tmp_path / "t.csv").write_text("\ufeffa, b\n1,2\n3,4\n", encoding="utf-8")
    assert list(read_table(tmp_path / "t.csv").columns) == ["a", "b"]


def test_parquet_files(tmp_path):
    pytest.importorskip("pyarrow")
    TABLE.to_parquet(tmp_path / "t.parquet")
    pd.testing.assert_frame_equal(read_table(tmp_path / "t.parquet"), TABLE)


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    for name in ("pyarrow", "fastparquet"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match="pip install pyarrow"):
        read_table(tmp_path / "t.parquet")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.csv", "", "is empty"),
        ("t.csv", "a,b\n", "it has 0 rows"),
        ("t.csv", "a,a\n1,2\n", "'a' is there more than once"),
        ("t.csv", "a,\n1,2\n", "column 2 has none"),
        ("t.csv", "a,b\n1,2,3\n", "as many cells as the header"),
        ("t.csv", "a,b\n1,2\n1,2,3\n", "as many cells as the header"),
        ("t.csv", b"a,b\n\xff\xfe,2\n", "UTF-8"),
        ("t.xlsx", "a", "must end in .csv"),
        ("t", "a", "no ending"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path, name, text, message):
    data = text if isinstance(text, bytes) else text.encode()
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=message):
        read_table(tmp_path / name)


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(InputError, match="there is no file"):
        read_table(tmp_path / "t.csv")
    with pytest.raises(InputError, match="is a folder"):
        read_table(tmp_path)


# Recipes


def test_inputs_and_targets_are_scaled_by_the_training_rows():
    recipe = recipe_of(TABLE, train=[0, 1, 2])
    assert (recipe.columns, recipe.task, recipe.likelihood) == (("a", "b"), "regression", "gaussian")
    expected = (TABLE["a"] - 2) / np.sqrt(2 / 3)
    inputs = recipe.inputs(TABLE[["b", "y", "a"]], "t.csv")
    np.testing.assert_allclose(inputs[:, 0], expected, rtol=1e-6)
    assert inputs.dtype == np.float32
    np.testing.assert_allclose(recipe.targets(TABLE, "t.csv")[:, 0], (TABLE["y"] - 6) / np.sqrt(2 / 3), rtol=1e-6)


@pytest.mark.parametrize(
    ("values", "classes", "numbers"),
    [
        (["b", "a", "c", "a"], ("a", "b", "c"), [1, 0, 2, 0]),
        ([10, 2, 2, 10], ("2", "10"), [1, 0, 0, 1]),
        ([10.0, 2.0, 2.0, 10.0], ("2", "10"), [1, 0, 0, 1]),
        ([True, False, True, True], ("False", "True"), [1, 0, 1, 1]),
    ],
)
def test_classes_are_numbered_in_order(values, classes, numbers):
    recipe = recipe_of(TABLE.assign(y=values), task="classification")
    assert recipe.classes == classes
    assert recipe.targets(TABLE.assign(y=values), "t.csv").tolist() == numbers
    assert (recipe.likelihood, recipe.outputs) == ("categorical", len(classes))


def test_text_targets_mean_classification_and_others_regression():
    assert recipe_of(TABLE.assign(y=list("abab"))).task == "classification"
    assert recipe_of(TABLE.assign(y=[0, 1, 0, 1])).task == "regression"


def test_counts_stay_as_they_are():
    recipe = recipe_of(TABLE, task="counts")
    assert recipe.likelihood == "poisson"
    np.testing.assert_array_equal(recipe.targets(TABLE, "t.csv")[:, 0], TABLE["y"])
    with pytest.raises(InputError, match="whole numbers"):
        recipe.targets(TABLE.assign(y=[0.5, 1, 2, 3]), "t.csv")


def test_the_network_has_the_layers_that_it_says():
    net = recipe_of(TABLE, hidden=(7, 5), activation="relu", likelihood="heteroscedastic").network()
    assert [tuple(p.shape) for p in net.parameters()] == [(7, 2), (7,), (5, 7), (5,), (2, 5), (2,)]
    assert type(net[1]).__name__ == "ReLU"


def test_recipes_survive_as_plain_text():
    recipe = recipe_of(TABLE.assign(y=list("abab")), hidden=(7, 5))
    text = recipe.to_json()
    assert json.loads(text)["classes"] == ["a", "b"]
    assert Recipe.from_json(text) == recipe


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"columns": []}', "null"])
def test_other_text_is_no_recipe(text):
    with pytest.raises(InputError, match="can't be read"):
        Recipe.from_json(text)


def test_recipes_that_do_not_fit_together_are_refused():
    values = json.loads(recipe_of(TABLE).to_json())
    with pytest.raises(InputError, match="doesn't fit together"):
        Recipe.from_json(json.dumps(values | {"centre": [1.0]}))
    with pytest.raises(InputError, match="doesn't fit together"):
        Recipe.from_json(json.dumps(values | {"activation": "exec"}))


@pytest.mark.parametrize(
    ("table", "options", "message"),
    [
        (TABLE, {"target": "z"}, "no column 'z' in t.csv; its columns are a, b, y"),
        (TABLE[["y"]], {}, "at least one column beside"),
        (TABLE.assign(a=[1, None, 3, None]), {}, r"missing values in t.csv: a \(2\)"),
        (TABLE.assign(y=[1, 2, 3, None]), {}, r"missing values in t.csv: y \(1\)"),
        (TABLE.assign(a=list("abcd")), {}, r"columns of text in t.csv: a \(such as 'a'\)"),
        (TABLE.assign(a=pd.to_datetime(["2020-01-01"] * 4)), {}, "columns of text"),
        (TABLE.assign(a=1.0), {}, "constant columns.*: a. Drop them"),
        (TABLE, {"train": [0, 2]}, "constant among the 2 training rows: b"),
        (TABLE.assign(a=[1, 2, 3, np.inf]), {}, "infinite values in t.csv: a"),
        (TABLE.assign(y=3.0), {}, "the target 'y' is constant"),
        (TABLE.assign(y=list("abcd")), {"task": "regression"}, "Use --task classification"),
        (TABLE.assign(y="a"), {}, "needs 2 to 100 classes; 'y' in t.csv has 1"),
    ],
)
def test_tables_that_can_not_be_used_are_refused(table, options, message):
    with pytest.raises(InputError, match=message):
        recipe_of(table, **options)


def test_new_rows_need_the_same_columns_and_known_classes():
    recipe = recipe_of(TABLE.assign(y=list("abab")))
    with pytest.raises(InputError, match=r"missing: b\. It has a, y"):
        recipe.inputs(TABLE[["a", "y"]], "new.csv")
    with pytest.raises(InputError, match=r"classes of 'y' that the network was not sampled with: z; it knows a, b"):
        recipe.targets(TABLE.assign(y=list("abaz")), "new.csv")
