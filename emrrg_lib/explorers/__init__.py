"""Pictures that answer: four explorers, each one call, each in three forms.

`explorer` as the last line of a cell shows the live widget and its still picture; `.widget()`,
`.figure()` and `.html(path)` give one form alone. They take a `Trace` or arrays, never a model; the gate
explorer also takes a function that writes the report again.
"""

from emrrg_lib.explorers.gate import GateExplorer
from emrrg_lib.explorers.lora import LoraExplorer, LoraTarget
from emrrg_lib.explorers.scan import ScanExplorer, scan_memory
from emrrg_lib.explorers.words import WordExplorer

__all__ = [
    "GateExplorer",
    "LoraExplorer",
    "LoraTarget",
    "ScanExplorer",
    "WordExplorer",
    "scan_memory",
]
