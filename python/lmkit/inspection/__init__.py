"""`inspect`: any file of lmkit's, or of a tool that it exchanges files with → what it is.

Each kind has a file of its own, with a function that tells of it; :mod:`recognise` picks one by
looking at names and first bytes. Only checkpoints load torch.
"""

from lmkit.inspection.recognise import inspect
from lmkit.inspection.report import Ask, Report

__all__ = ["Ask", "Report", "inspect"]
