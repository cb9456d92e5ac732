"""Runs models in the environment that has the wheels: classes of images, accuracy, speed, and ONNX files."""

from mambaport.running.labels import Labels, imagenet_labels, imagenet_wnids, read_labels
from mambaport.running.results import Benchmark, Evaluation, Export, Inference, Machine
from mambaport.running.run import run_task

__all__ = [
    "Benchmark",
    "Evaluation",
    "Export",
    "Inference",
    "Labels",
    "Machine",
    "imagenet_labels",
    "imagenet_wnids",
    "read_labels",
    "run_task",
]
