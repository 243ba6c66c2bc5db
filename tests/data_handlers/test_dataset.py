"""Data handlers: batches, splits, labels, sequences, adapters."""

from __future__ import annotations

import builtins

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from hnbayes.data import ArrayDataset, Dataset, from_torch, load, split_tasks, to_torch


class Handler(Dataset):
    """A handler as the interface documents it: it fills `_data`."""

    def __init__(self, one_hot=True, sequence=False, seed=None):
        super().__init__() if seed is None else super().__init__(seed)
        labels = np.arange(12) % 3
        out = np.stack([labels, (labels + 1) % 3], 1) if sequence else labels[:, None]
        self._data["classification"] = True
        self._data["sequence"] = sequence
        self._data["num_classes"] = 3
        self._data["is_one_hot"] = one_hot
        self._data["in_data"] = np.arange(48.0).reshape(12, 4)
        self._data["in_shape"] = [2] if sequence else [4]
        self._data["out_data"] = np.eye(3)[out].reshape(12, -1) if one_hot else out
        self._data["out_shape"] = [3 if one_hot else 1]
        self._data["train_inds"] = np.arange(6)
        self._data["test_inds"] = np.arange(6, 9)
        self._data["val_inds"] = np.arange(9, 12)

    def get_identifier(self):
        return "handler"


def test_documented_properties():
    data = Handler()
    assert (data.classification, data.sequence, data.num_classes, data.is_one_hot) == (True, False, 3, True)
    assert (data.num_train_samples, data.num_test_samples, data.num_val_samples) == (6, 3, 3)
    assert (data.in_shape, data.out_shape, data.get_identifier()) == ([4], [3], "handler")
    assert data.get_train_inputs().shape == (6, 4)
    assert data.get_test_ids().tolist() == [6, 7, 8]
    np.testing.assert_array_equal(data.get_val_inputs(), np.arange(36.0, 48).reshape(3, 4))
    assert data.is_image_dataset() == (False, False)
    assert data.tf_input_map()(3) == data.tf_output_map("train")(3) == 3
    data._data["val_inds"] = None
    assert data.num_val_samples == 0
    assert data.get_val_ids() is data.get_val_inputs() is data.get_val_outputs() is data.next_val_batch(2) is None
    assert list(data.val_iterator(2)) == []


def test_batches_go_through_the_data_again_and_again():
    data = Handler(seed=0)
    seen = np.concatenate([data.next_train_batch(4, return_ids=True)[2] for _ in range(9)])
    passes = seen.reshape(6, 6)
    assert all(sorted(p) == list(range(6)) for p in passes)
    assert len({tuple(p) for p in passes}) > 1
    x, y, ids = data.next_train_batch(20, return_ids=True)
    assert len(ids) == 20
    np.testing.assert_array_equal(x, data._data["in_data"][ids])
    np.testing.assert_array_equal(y, data._data["out_data"][ids])
    assert len(data.next_test_batch(2)) == 2
    data.next_train_batch(1)
    data.reset_batch_generator()
    assert sorted(data.next_train_batch(6, return_ids=True)[2]) == list(range(6))


def test_seeds():
    def batches(data):
        return [data.next_train_batch(4, return_ids=True)[2].tolist() for _ in range(5)]

    assert batches(Handler(seed=1)) == batches(Handler(seed=1))
    assert batches(Handler(seed=1)) != batches(Handler(seed=2))
    np.random.seed(0)  # noqa: NPY002
    first = batches(Handler())
    np.random.seed(0)  # noqa: NPY002
    assert batches(Handler()) == first


def test_test_samples_in_order():
    data = Handler(seed=0)
    assert data.shuffle_test_samples
    assert data.shuffle_val_samples
    data.next_test_batch(2)
    data.shuffle_test_samples = False
    data.shuffle_val_samples = False
    assert data.next_test_batch(4, return_ids=True)[2].tolist() == [6, 7, 8, 6]
    assert data.next_val_batch(2, return_ids=True)[2].tolist() == [9, 10]


def test_iterators_are_one_pass():
    data = Handler(seed=0)
    data.shuffle_test_samples = False
    assert data.next_test_batch(1, return_ids=True)[2].tolist() == [6]
    assert [(b[0], b[3].tolist()) for b in data.test_iterator(2, return_ids=True)] == [(2, [6, 7]), (1, [8])]
    # The passes of next_test_batch go on where they were.
    assert data.next_test_batch(1, return_ids=True)[2].tolist() == [7]
    assert [b[0] for b in data.train_iterator(4)] == [4, 2]
    assert [b[0] for b in data.train_iterator(4, return_remainder=False)] == [4]
    ids = np.concatenate([b[3] for b in data.train_iterator(4, return_ids=True)])
    assert sorted(ids) == list(range(6))
    assert [b[0] for b in data.val_iterator(5)] == [3]


@pytest.mark.parametrize("one_hot", [False, True])
@pytest.mark.parametrize("sequence", [False, True])
def test_labels_in_both_forms(one_hot, sequence):
    data = Handler(one_hot, sequence)
    labels = np.arange(6) % 3
    labels = np.stack([labels, (labels + 1) % 3], 1) if sequence else labels[:, None]
    np.testing.assert_array_equal(data.get_train_outputs(use_one_hot=False), labels)
    np.testing.assert_array_equal(data.get_train_outputs(use_one_hot=True), np.eye(3)[labels].reshape(6, -1))
    expected = np.eye(3)[labels].reshape(6, -1) if one_hot else labels
    np.testing.assert_array_equal(data.get_train_outputs(), expected)
    assert data.next_train_batch(5, use_one_hot=not one_hot)[1].shape[1] != expected.shape[1]


def test_numbers_and_indices():
    data = Handler()
    assert data.train_ids_to_indices(np.array([3, 1])).tolist() == [3, 1]
    assert data.test_ids_to_indices(np.array([8, 7])).tolist() == [2, 1]
    assert data.val_ids_to_indices(np.array([9])).tolist() == [0]
    with pytest.raises(ValueError, match="train samples"):
        data.train_ids_to_indices(np.array([7]))


def test_tensors():
    data = Handler()
    x = data.input_to_torch_tensor(data.get_train_inputs(), "cpu", mode="train")
    y = data.output_to_torch_tensor(data.get_train_outputs(), "cpu")
    assert x.dtype == y.dtype == torch.float32
    assert x.shape == (6, 4)
    x.add_(1)
    assert data.get_train_inputs()[0, 0] == 0
    with pytest.raises(ValueError, match="mode"):
        data.input_to_torch_tensor(data.get_train_inputs(), "cpu", mode="test")


def test_bad_batches():
    data = Handler()
    with pytest.raises(TypeError, match="batch_size"):
        data.next_train_batch(1.5)
    with pytest.raises(ValueError, match="batch_size"):
        data.next_train_batch(0)
    data._data["train_inds"] = []
    with pytest.raises(ValueError, match="train samples"):
        data.next_train_batch(1)
    with pytest.raises(TypeError, match="abstract"):
        Dataset()


def arrays(N=20, shape=(2, 2, 1)):
    random = np.random.default_rng(0)
    return random.normal(size=(N, *shape)), np.arange(N) % 4


def test_array_dataset():
    X, y = arrays()
    data = ArrayDataset(torch.from_numpy(X), y, test=0.25, val=[0, 1], one_hot=False, seed=3)
    assert (data.num_train_samples, data.num_test_samples, data.num_val_samples) == (13, 5, 2) or data.num_train_samples
    ids = np.concatenate([data.get_train_ids(), data.get_test_ids(), data.get_val_ids()])
    assert sorted(ids) == list(range(20))
    assert data.get_val_ids().tolist() == [0, 1]
    x, t, ids = data.next_train_batch(7, return_ids=True)
    tensor = data.input_to_torch_tensor(x, "cpu")
    np.testing.assert_allclose(tensor.numpy(), X[ids], rtol=1e-6)
    labels = data.output_to_torch_tensor(t, "cpu")
    assert labels.dtype == torch.int64
    assert labels.tolist() == y[ids].tolist()
    one_hot = data.output_to_torch_tensor(data.get_train_outputs(use_one_hot=True), "cpu")
    assert one_hot.shape == (data.num_train_samples, 4)
    assert data.is_image_dataset() == (True, False)
    again = ArrayDataset(X, y, test=0.25, val=[0, 1], one_hot=False, seed=3)
    assert again.get_test_ids().tolist() == data.get_test_ids().tolist()


def test_regression_and_sequences():
    X, _ = arrays(shape=(5, 3))
    data = ArrayDataset(X, X.sum((1, 2)), test=0.5)
    assert not data.classification
    assert data.num_classes is None
    assert data.get_train_outputs(use_one_hot=True).shape == (10, 1)
    sequence = ArrayDataset(X, np.arange(100).reshape(20, 5) % 3, sequence=True)
    assert (sequence.in_shape, sequence.num_classes) == ([3], 3)
    x, y, ids = sequence.next_train_batch(4, return_ids=True)
    # Time comes first, as a recurrent network wants it.
    np.testing.assert_allclose(sequence.input_to_torch_tensor(x, "cpu").numpy(), X[ids].swapaxes(0, 1), rtol=1e-6)
    assert sequence.output_to_torch_tensor(y, "cpu").shape == (5, 4, 3)
    indices = sequence.output_to_torch_tensor(sequence.labels(y), "cpu")
    assert indices.tolist() == (np.arange(100).reshape(20, 5) % 3)[ids].T.tolist()
    values = ArrayDataset(X, X[..., :2], sequence=True)
    assert values.out_shape == [2]
    assert values.output_to_torch_tensor(values.get_test_outputs(), "cpu").shape == (5, 4, 2)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"X": np.ones((3, 2))}, ValueError, "same samples"),
        ({"X": np.ones((20, 2), dtype=int)}, TypeError, "floating point"),
        ({"X": np.ones(20)}, ValueError, "X must have shape"),
        ({"X": np.full((20, 2), np.nan)}, ValueError, "finite"),
        ({"X": np.full((20, 2), np.inf)}, ValueError, "finite"),
        ({"X": "text"}, TypeError, "X must be an array"),
        ({"X": np.ones((0, 2)), "y": np.ones(0, dtype=int)}, ValueError, "at least one"),
        ({"y": np.full(20, -1)}, ValueError, "labels must lie"),
        ({"num_classes": 2}, ValueError, "labels must lie"),
        ({"y": np.ones(20), "classification": True}, TypeError, "integers"),
        ({"y": np.ones((20, 3), dtype=int)}, ValueError, "argmax"),
        ({"y": np.full(20, np.nan)}, ValueError, "finite"),
        ({"test": 1.5}, ValueError, "test must be a part"),
        ({"test": [0, 1], "val": [1]}, ValueError, "overlapping"),
        ({"test": [20]}, ValueError, "overlapping"),
        ({"test": list(range(20))}, ValueError, "training samples"),
    ],
)
def test_bad_arrays(change, error, message):
    X, y = arrays()
    with pytest.raises(error, match=message):
        ArrayDataset(**{"X": X, "y": y, **change})


def test_torch_data_sets():
    X, y = arrays(shape=(3,))
    source = TensorDataset(torch.from_numpy(X), torch.from_numpy(y))
    data = from_torch(source, test=0.25, one_hot=False)
    assert data.num_classes == 4
    back = to_torch(data)
    assert len(back) == 15
    for i, row in enumerate(data.get_train_ids()):
        np.testing.assert_allclose(back[i][0].numpy(), X[row], rtol=1e-6)
        assert back[i][1] == y[row]
    assert sum(len(batch[0]) for batch in DataLoader(back, batch_size=4)) == 15
    assert len(to_torch(data, "test")) == 5
    sequences = ArrayDataset(np.ones((6, 5, 2)), np.ones((6, 5)), sequence=True, test=0.5)
    assert to_torch(sequences)[0][0].shape == (5, 2)
    with pytest.raises(ValueError, match="no val samples"):
        to_torch(data, "val")
    with pytest.raises(ValueError, match="split"):
        to_torch(data, "all")
    with pytest.raises(TypeError, match="pairs"):
        from_torch([1.0, 2.0])
    with pytest.raises(TypeError, match="length"):
        from_torch(3)
    with pytest.raises(ValueError, match="one shape"):
        from_torch([(np.ones(2), 0), (np.ones(3), 0)])


def test_scikit_learns_sets():
    pytest.importorskip("sklearn")
    digits = load("digits", test=0.2, val=0.1, seed=0)
    assert (digits.in_shape, digits.num_classes) == ([8, 8, 1], 10)
    assert digits.num_train_samples + digits.num_test_samples + digits.num_val_samples == 1797
    assert digits.get_train_inputs().max() == 1
    for name, inputs in (("iris", 4), ("wine", 13), ("breast_cancer", 30), ("diabetes", 10)):
        data = load(name, seed=0)
        assert data.in_shape == [inputs]
        np.testing.assert_allclose(data.get_train_inputs().mean(0), 0, atol=1e-10)
        np.testing.assert_allclose(data.get_train_inputs().std(0), 1)
    np.testing.assert_allclose(data.get_train_outputs().std(0), 1)
    assert load("iris", standardise=False).get_train_inputs().min() > 0
    tasks = split_tasks(digits, 2)
    assert len(tasks) == 5
    assert tasks[0].num_train_samples == np.isin(digits.labels(digits.get_train_outputs()), [0, 1]).sum()
    assert sum(t.num_test_samples for t in tasks) == digits.num_test_samples
    assert sum(t.num_val_samples for t in tasks) == digits.num_val_samples
    assert {t.num_classes for t in tasks} == {2}
    with pytest.raises(ValueError, match="divide"):
        split_tasks(digits, 3)
    with pytest.raises(ValueError, match="classification"):
        split_tasks(data, 1)
    with pytest.raises(ValueError, match="name must be one of"):
        load("mnist")


def test_without_scikit_learn(monkeypatch):
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    monkeypatch.setattr("importlib.import_module", lambda name: refuse(name))
    with pytest.raises(ImportError, match="pip install scikit-learn"):
        load("digits")


def test_plots(tmp_path):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    X, y = arrays()
    for data in (
        ArrayDataset(X, y),
        ArrayDataset(X[..., 0, 0], X.sum((1, 2, 3))),
        ArrayDataset(X[..., 0], np.ones((20, 2)), sequence=True),
    ):
        file = tmp_path / "samples.png"
        x, t = data.next_train_batch(5)
        figure = data.plot_samples("Samples", x, t, predictions=t, show=False, filename=str(file))
        assert file.read_bytes().startswith(b"\x89PNG")
        assert len(figure.axes) == 8
        assert "predicted" in figure.axes[0].get_title()
        plt.close(figure)
