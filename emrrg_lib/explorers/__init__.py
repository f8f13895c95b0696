"""Pictures that answer: four explorers, each one call, each in three forms.

`explorer` as the last line of a cell shows the live view and, folded below, its still; `.widget()` and
`.html(path)` give one form alone, `explorer_html` one page of several. They take a `Trace` or arrays, never
a model; the gate explorer also takes a function that writes the report anew.
"""

from emrrg_lib.explorers.base import Explorer, explorer_html
from emrrg_lib.explorers.gate import GateExplorer, WordExplorer
from emrrg_lib.explorers.scan import LoraExplorer, LoraTarget, ScanExplorer, scan_memory
