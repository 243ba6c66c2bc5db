"""Data handlers."""

from hnbayes.data.adapters import from_torch, to_torch
from hnbayes.data.array_dataset import ArrayDataset
from hnbayes.data.dataset import Dataset
from hnbayes.data.sklearn_data import load, split_tasks

__all__ = ["ArrayDataset", "Dataset", "from_torch", "load", "split_tasks", "to_torch"]
