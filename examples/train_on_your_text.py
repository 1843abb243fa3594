"""Your own text to a model of your own, in one script.

python examples/train_on_your_text.py raw_text.txt my_model
"""

import sys

import lmkit
from lmkit.lm import ModelConfig, TrainConfig, Trainer, generate, load_model

text, folder = sys.argv[1:]

tokenizer = lmkit.Tokenizer.train(text, vocab_size=1000)
tokenizer.save(f"{folder}_tokenizer")
lmkit.tokenize(text, f"{folder}_tokens.npy", tokenizer)

# A model to try things with; the next size up is what `lmkit train --preset small` sets.
shape = ModelConfig(vocab_size=1000, d_model=64, n_layers=2, n_heads=4, d_ff=192, max_seq_len=128)
config = TrainConfig(
    model=shape,
    tokenizer=f"{folder}_tokenizer",
    train_data=f"{folder}_tokens.npy",
    checkpoint_dir=folder,
    batch_size=8,
    context_length=64,
    learning_rate=3e-3,
    max_iters=100,
    log_interval=20,
)
Trainer(config).train()

model, tokenizer = load_model(folder)
for piece in generate(model, tokenizer, "The ", max_new_tokens=60, temperature=0.8, seed=1):
    print(piece, end="", flush=True)
print()
