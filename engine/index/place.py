"""Where an index may be made: nothing of other people's is written over."""

from pathlib import Path

from engine.errors import EngineError, OutputError
from engine.files import found_beside
from engine.index.graph import GRAPHS
from engine.index.settings import IndexSettings
from engine.index.store import BASIS, ROWS, SETTINGS_FILE, STAGED, STATE
from engine.writing import LOCK


def require_own_folder(path: Path) -> None:
    """Raise OutputError if a folder without an index holds other things than what a stopped build has left there."""
    ours = {SETTINGS_FILE, BASIS, ROWS, STAGED, GRAPHS, LOCK}
    beside = {left for name in (SETTINGS_FILE, BASIS, STATE) for left in found_beside(path / name)}
    others = sorted(one.name for one in path.iterdir() if one.name not in ours and one not in beside)
    settings = path / SETTINGS_FILE
    if settings.is_file():
        try:
            IndexSettings.from_json(settings.read_text(encoding="utf-8"), path)
        except (EngineError, UnicodeDecodeError):
            others.append(SETTINGS_FILE)
    if others:
        raise OutputError(f"{path} is no index and holds {others[0]!r}: give an empty folder, or a name that is free")
