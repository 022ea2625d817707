"""Verify a bundle as the engine will use it, and say what is in it."""

from pathlib import Path

from engine.bundle import Bundle, load_bundle
from engine.bundle.manifest import Graph
from engine.errors import OptionError
from engine.pictures.reading import AS_USUAL, Reading
from engine.runtime.opening import verify_graph
from export.compare import compare_index
from export.errors import ExportError


def check(bundle: Path, against: Path | None = None, images: Path | None = None, reading: Reading = AS_USUAL) -> str:
    """Load a bundle, run each of its graphs on the CPU against its canonical result, and describe it in a few lines.

    against, images: an index made elsewhere with the same network, and its pictures, see `export.compare.compare_index`
    reading: how these pictures are read
    Raises an EngineError for any fault, and if the bundle does not compare pictures as the index does. Graphs made for GPUs
    only are verified as files but not run.
    """
    if (against is None) != (images is None):
        raise OptionError("--against FILE and --images DIR, the folder of its pictures, go together: give both or neither")
    loaded = load_bundle(Path(bundle))
    lines = [*_model_lines(loaded), *(_graph_line(loaded, g) for g in loaded.manifest.graphs)]
    if against is not None and images is not None:
        found = compare_index(loaded, Path(against), Path(images), reading)
        if found.kinds:
            raise ExportError(f"{against}: {found.line()}")
        lines.append(f"index       {found.line()}")
    return "\n".join(lines)


def _model_lines(loaded: Bundle) -> list[str]:
    manifest, table = loaded.manifest, loaded.attributes
    p = manifest.preprocessing
    lines = [
        f"name        {manifest.name}",
        f"identity    {loaded.identity}",
        f"licence     {manifest.licence or 'not stated'}",
        *([f"origin      {manifest.origin}"] if manifest.origin else []),
        f"picture     {p.height} x {p.width}, {p.fit}, {p.channel_order}, {p.layout}",
        f"similarity  {manifest.metric} of embeddings ({manifest.embedding},)",
    ]
    if manifest.conditions is not None:
        lines.append(f"conditions  {_counted(manifest.conditions.names)}")
    if table is not None:
        lines.append(f"attributes  {_counted(table.names)}; {table.confidence}")
    return lines


def _graph_line(loaded: Bundle, graph: Graph) -> str:
    if graph.target == "gpu":
        result = "for GPUs, not run"
    else:
        verify_graph(loaded, graph)
        result = "gives its canonical result on cpu"
    return f"graph       {graph.file}: {graph.role}, {graph.precision}, opset {graph.opset}; {result}"


def _counted(names: tuple[str, ...]) -> str:
    more = ", ..." if len(names) > 5 else ""
    return f"{len(names)}: {', '.join(names[:5])}{more}"
