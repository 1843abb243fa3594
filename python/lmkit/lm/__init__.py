"""The torch room: model, batches, optimizer, schedule, checkpoints, loop, evaluation, generation.

    from lmkit.lm import ModelConfig, Transformer, TrainConfig, Trainer, generate, load_model

Nothing outside this package imports it at module level: it loads torch, which takes seconds.
"""

from lmkit.config import ModelConfig, TrainConfig
from lmkit.lm.checkpoint import load_model
from lmkit.lm.generate import generate
from lmkit.lm.model import Transformer
from lmkit.lm.trainer import Trainer

__all__ = ["ModelConfig", "TrainConfig", "Trainer", "Transformer", "generate", "load_model"]
