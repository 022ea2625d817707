"""Whether a two-input graph is two branches that only meet at their ends: then the branch is a model of one picture."""

import onnx


def separable_embedding(model: onnx.ModelProto) -> str | None:
    """A line that says how the model can be explained far more cheaply, or None if its two inputs really meet inside.

    Two branches are separable if the nodes that see both pictures read one tensor (batch, D) of each of them and no more.
    """
    first, second = (node.name for node in model.graph.input)
    sees = {first: {first}, second: {second}}
    edges: set[str] = set()
    for node in model.graph.node:
        inputs = [sees.get(name, set()) for name in node.input]
        both = set().union(*inputs)
        if len(both) == 2:
            edges |= {name for name in node.input if len(sees.get(name, set())) == 1}
        for name in node.output:
            sees[name] = both
    sides = {side: [name for name in edges if sees[name] == {side}] for side in (first, second)}
    if any(len(names) != 1 or names[0] == side for side, names in sides.items()):
        return None
    ((left,), (right,)) = sides[first], sides[second]
    width = _width(model, left)
    if width is None or width != _width(model, right):
        return None
    return (
        f"the two pictures meet only as vectors of {width} numbers ({left!r} and {right!r}): the branch that gives them is "
        f"an embedding; export it by itself (`--onnx FILE --output {left}`, or the module's branch), and one prepared query "
        "serves every reference, thousands of times cheaper"
    )


def _width(model: onnx.ModelProto, name: str) -> int | None:
    """D of a tensor (batch, D)."""
    shapes = onnx.shape_inference.infer_shapes(model).graph.value_info
    for value in shapes:
        if value.name == name:
            sizes = value.type.tensor_type.shape.dim
            return sizes[1].dim_value or None if len(sizes) == 2 else None
    return None
