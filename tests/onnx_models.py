"""Tiny classifiers in ONNX files, made node by node."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from anodetect.data import synthetic


def write(path, nodes, inputs, outputs, constants, **saving):
    """Write a graph of nodes (type, inputs, outputs, attributes); inputs and outputs are shapes by
    name, constants arrays by name."""
    graph = helper.make_graph(
        [helper.make_node(kind, *ends, **attributes) for kind, *ends, attributes in nodes],
        "classifier",
        [_value(name, shape) for name, shape in inputs.items()],
        [_value(name, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(np.asarray(each), name) for name, each in constants.items()],
    )
    opset = helper.make_opsetid("", 17)
    onnx.save_model(
        helper.make_model(graph, opset_imports=[opset], ir_version=8), str(path), **saving
    )
    return path


def _value(name, shape):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def linear(path, weight, bias, shape, *, end=(), batch="N", **saving):
    """Write f(x) = Wx + b of images of this shape; `end` are operators that follow."""
    names = ["f", *(f"f{number}" for number in range(1, len(end) + 1))]
    nodes = [
        ("Flatten", ["x"], ["flat"], {}),
        ("Gemm", ["flat", "W", "b"], ["f"], {"transB": 1}),
    ]
    for number, kind in enumerate(end):
        nodes.append((kind, [names[number]], [names[number + 1]], {}))
    constants = {"W": np.float32(weight), "b": np.float32(bias)}
    outputs = {names[-1]: [batch, len(bias)]}
    return write(path, nodes, {"x": [batch, *shape]}, outputs, constants, **saving)


def knows_patches(path, side=5, size=32):
    """Write a classifier of two classes that knows the patches of the synthetic normal images: its
    logits fall with the largest Mahalanobis distance of a patch."""
    images, _ = synthetic.images(48, size=size)
    windows = np.lib.stride_tricks.sliding_window_view(images[:, 0] / 255, (side, side), (1, 2))
    patches = windows.reshape(-1, side**2)
    mean = patches.mean(0)
    whitening = np.linalg.inv(np.linalg.cholesky(np.cov(patches.T) + 1e-5 * np.eye(side**2)))

    filters = np.repeat(whitening.reshape(-1, 1, side, side), 3, 1) / 3  # of colours: their mean
    constants = {
        "filters": np.float32(filters),
        "offset": np.float32(-whitening @ mean),
        "W": np.float32([[-0.05, -0.1]]),
        "b": np.float32([1, 2]),
    }
    nodes = [
        ("Conv", ["x", "filters", "offset"], ["white"], {}),
        ("Mul", ["white", "white"], ["squares"], {}),
        ("ReduceMean", ["squares"], ["distances"], {"axes": [1]}),
        ("GlobalMaxPool", ["distances"], ["largest"], {}),
        ("Flatten", ["largest"], ["flat"], {}),
        ("Gemm", ["flat", "W", "b"], ["f"], {}),
    ]
    return write(path, nodes, {"x": ["N", 3, size, size]}, {"f": ["N", 2]}, constants)
