"""ResNet-50 as an ONNX graph without weights, to count its work: published throughputs are about this network."""

import onnx
from onnx import TensorProto, helper

STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))
"""Width, number of blocks and stride of the first block of each stage (He et al. 2016; "v1.5": the 3 x 3 convolution has the
stride)."""
SIZE, CLASSES = 224, 1000


class _Graph:
    """A graph that is being built: its nodes, and the weights that they take as inputs."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.ValueInfoProto] = []

    def op(self, kind: str, *inputs: str, **attributes: object) -> str:
        """Add a node, and return the name of its output."""
        output = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def weight(self, *shape: int) -> str:
        """Add a weight as an input, and return its name."""
        name = f"w{len(self.weights)}"
        self.weights.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        return name

    def conv(self, x: str, inputs: int, outputs: int, kernel: int, stride: int = 1) -> str:
        """Add a convolution with a bias, as after folding a batch norm."""
        pads, weights = [kernel // 2] * 4, self.weight(outputs, inputs, kernel, kernel)
        shape = {"kernel_shape": [kernel, kernel], "strides": [stride, stride], "pads": pads}
        return self.op("Conv", x, weights, self.weight(outputs), **shape)


def resnet50() -> onnx.ModelProto:
    """Return the graph: (batch, 3, 224, 224) -> (batch, 1000). The weights are inputs after the picture."""
    graph = _Graph()
    x = graph.op("Relu", graph.conv("image", 3, 64, 7, 2))
    x = graph.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    inputs = 64
    for width, blocks, first_stride in STAGES:
        for i in range(blocks):
            stride = first_stride if i == 0 else 1
            y = graph.op("Relu", graph.conv(x, inputs, width, 1))
            y = graph.op("Relu", graph.conv(y, width, width, 3, stride))
            y = graph.conv(y, width, 4 * width, 1)
            shortcut = graph.conv(x, inputs, 4 * width, 1, stride) if i == 0 else x
            x, inputs = graph.op("Relu", graph.op("Add", y, shortcut)), 4 * width
    x = graph.op("Flatten", graph.op("GlobalAveragePool", x))
    x = graph.op("Gemm", x, graph.weight(inputs, CLASSES), graph.weight(CLASSES))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, SIZE, SIZE])
    output = helper.make_tensor_value_info(x, TensorProto.FLOAT, ["batch", CLASSES])
    made = helper.make_graph(graph.nodes, "resnet50", [image, *graph.weights], [output])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
