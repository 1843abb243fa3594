"""The torch room: model, batches, optimizer, schedule, checkpoints, loop, evaluation, generation.

What other tools take and give goes out and in by `export_model` and `import_model`.

    from lmkit.lm import ModelConfig, Transformer, TrainConfig, Trainer, generate, load_model

Nothing outside this package imports it at module level: it loads torch, which takes seconds.
"""

from lmkit.config import TrainConfig
from lmkit.lm.checkpoint import load_model
from lmkit.lm.export import export_model
from lmkit.lm.foreign_model import import_model
from lmkit.lm.generate import generate
from lmkit.lm.model import Transformer
from lmkit.lm.trainer import Trainer
from lmkit.model_config import ModelConfig

__all__ = [
    "ModelConfig",
    "TrainConfig",
    "Trainer",
    "Transformer",
    "export_model",
    "generate",
    "import_model",
    "load_model",
]
