"""Files made by others: they run nothing, reach nothing outside, and show as text in the report."""

from __future__ import annotations

import contextlib
import html.parser
import io
import itertools
import json
import pathlib
import pickle
import shutil
import warnings

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

import hnbayes
from hnbayes._untrusted import UntrustedFileError, refuse_unsafe
from hnbayes.cli import main
from hnbayes.sampling import read_draws

pytestmark = pytest.mark.filterwarnings("ignore::hnbayes.SamplingWarning")
EVIL = '<script>alert("1")</script>&"\''


class Bomb:
    """An object whose pickle writes a file when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


def pickled_array(bomb):
    content = io.BytesIO()
    np.save(content, np.array([bomb], object))
    return content.getvalue()


def torch_file(bomb):
    content = io.BytesIO()
    torch.save(bomb, content)
    return content.getvalue()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A small posterior of the command, whose columns are called as badly as can be."""
    folder = tmp_path_factory.mktemp("saved")
    rng = np.random.default_rng(0)
    table = pd.DataFrame({EVIL: rng.normal(size=40), "b/../../c": rng.normal(size=40), f"y{EVIL}": rng.normal(size=40)})
    table.to_csv(folder / "t.csv", index=False)
    options = ["--hidden", "2", "--chains", "2", "--warmup", "30", "--draws", "30", "--max-tree-depth", "3", "--quiet"]
    command = ["sample", str(folder / "t.csv"), "--target", f"y{EVIL}", "--out", str(folder / "out"), *options]
    assert main(command) == 0
    return folder / "out" / "posterior.nc"


class Tags(html.parser.HTMLParser):
    """All tags of a page, and its text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.attributes = set(), "", []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += [name for name, _ in attrs]

    def handle_data(self, data):
        self.text += data


def test_names_are_text_in_the_report(saved, tmp_path):
    assert main(["report", str(saved), "-o", str(tmp_path / "r.html"), "--quiet"]) == 0
    page = Tags((tmp_path / "r.html").read_text())
    assert "script" not in page.tags
    assert not [name for name in page.attributes if name.startswith("on")]
    assert EVIL in page.text
    # As it would be, were it not escaped.
    assert "script" in Tags(f"<p>{EVIL}</p>").tags


def test_names_of_variables_made_by_others_are_text_too(tmp_path):
    rng = np.random.default_rng(0)
    dims = ("chain", "draw")
    data = xr.Dataset({EVIL.replace("/", "."): (dims, rng.normal(size=(2, 50)))})
    data.to_netcdf(tmp_path / "other.nc", group="posterior", engine="h5netcdf")
    stats = xr.Dataset({"energy": (dims, rng.normal(size=(2, 50))), "diverging": (dims, np.zeros((2, 50), bool))})
    stats.to_netcdf(tmp_path / "other.nc", group="sample_stats", engine="h5netcdf", mode="a")
    assert main(["report", str(tmp_path / "other.nc"), "-o", str(tmp_path / "r.html"), "--quiet"]) == 0
    assert "script" not in Tags((tmp_path / "r.html").read_text()).tags


def test_names_lead_out_of_no_folder(saved, tmp_path):
    """Columns with slashes and dots in their names wrote nothing beside the results."""
    assert sorted(path.name for path in saved.parent.iterdir()) == ["posterior.nc", "scores.json"]
    assert sorted(path.name for path in saved.parent.parent.iterdir()) == ["out", "t.csv"]


def with_link(saved, tmp_path, kind):
    path, secret = tmp_path / "hostile.nc", tmp_path / "secret.h5"
    shutil.copy(saved, path)
    with h5py.File(secret, "w") as file:
        file["x"] = np.arange(60.0).reshape(2, 30)
    secret.with_suffix(".txt").write_bytes(bytes(range(60)) * 8)
    with h5py.File(path, "a") as file:
        if kind == "link":
            file["posterior/x"] = h5py.ExternalLink(str(secret), "/x")
        elif kind == "storage":
            file.create_dataset("posterior/x", (2, 30), "f8", external=[(str(secret.with_suffix(".txt")), 0, 480)])
        elif kind == "virtual":
            layout = h5py.VirtualLayout((2, 30), "f8")
            layout[:] = h5py.VirtualSource(str(secret), "x", (2, 30))
            file.create_virtual_dataset("posterior/x", layout)
        elif kind == "loop":  # harmless, but a walk that follows it never ends
            file["posterior/again"] = file["/"]
    return path


@pytest.mark.parametrize("kind", ["link", "storage", "virtual"])
def test_netcdf_files_that_refer_to_others_are_refused(kind, saved, tmp_path, capsys):
    path = with_link(saved, tmp_path, kind)
    with pytest.raises(UntrustedFileError, match=r"its '/posterior/x' refers to another file"):
        hnbayes.load(path, torch.nn.Linear(2, 1))
    for command in (["report", str(path)], ["diagnose", str(path)]):
        assert main(command) == 2
        assert "refers to another file" in capsys.readouterr().err
    # Without the check it would have been read.
    with xr.open_dataset(path, group="posterior", engine="h5netcdf") as data:
        assert data["x"].values.shape == (2, 30)


def test_harmless_files_pass(saved, tmp_path):
    refuse_unsafe(saved)
    refuse_unsafe(with_link(saved, tmp_path, "loop"))
    (tmp_path / "text").write_text("no file of this kind")
    refuse_unsafe(tmp_path / "text")


def zarr_folder(path, description, name):
    path.mkdir()
    (path / "a").mkdir()
    (path / "a" / name).write_text(json.dumps(description))
    return path


@pytest.mark.parametrize(
    ("name", "description"),
    [
        (".zarray", {"dtype": "|O", "compressor": None, "filters": [{"id": "pickle", "protocol": 4}]}),
        (".zarray", {"dtype": "<f8", "compressor": {"id": "pickle"}, "filters": None}),
        (".zmetadata", {"metadata": {"a/.zarray": {"filters": [{"id": "pickle"}]}}}),
        ("zarr.json", {"codecs": [{"name": "numcodecs.pickle"}]}),
        ("zarr.json", {"codecs": [{"name": "sharding_indexed", "configuration": {"codecs": [{"name": "mine"}]}}]}),
    ],
)
def test_zarr_folders_with_other_codecs_are_refused(name, description, tmp_path):
    path = zarr_folder(tmp_path / "p.zarr", description, name)
    with pytest.raises(UntrustedFileError, match="may run code"):
        hnbayes.load(path, torch.nn.Linear(2, 1))


def test_zarr_folders_with_links_are_refused(tmp_path):
    path = zarr_folder(tmp_path / "p.zarr", {"codecs": [{"name": "bytes"}, {"name": "zstd"}]}, "zarr.json")
    refuse_unsafe(path)
    (path / "a" / "0").symlink_to("/etc/hostname")
    with pytest.raises(UntrustedFileError, match="is a link"):
        hnbayes.load(path, torch.nn.Linear(2, 1))


def test_pickles_in_place_of_a_run_are_not_read(tmp_path):
    """Every file of a run replaced by a pickle, a pickled NumPy array, and a torch file."""
    run, mark = tmp_path / "run", tmp_path / "touched"
    net = torch.nn.Linear(2, 1)
    X = torch.randn(10, 2, generator=torch.Generator().manual_seed(0))
    hnbayes.sample(net, X, X[:, :1], chains=1, warmup=10, draws=10, seed=0, progress=False, checkpoint=run)
    bomb = Bomb(mark)
    writers = (pickle.dumps, pickled_array, torch_file)
    for name, content in itertools.product([path.name for path in run.iterdir()], [write(bomb) for write in writers]):
        shutil.copytree(run, tmp_path / "case")
        (tmp_path / "case" / name).write_bytes(content)
        for use in (lambda case: hnbayes.resume(case, net, progress=False), lambda case: read_draws(case).positions):
            with contextlib.suppress(ValueError), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                use(tmp_path / "case")
        shutil.rmtree(tmp_path / "case")
    assert not mark.exists()
    pickle.loads(pickle.dumps(bomb))
    assert mark.exists()  # so it would have been seen
